"""Inputs of a batch: rows of JSONL, text and Parquet files, in blocks that are read by their numbers."""

from __future__ import annotations

import hashlib
import stat
from array import array
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rwkv_cy.batch.records import Row
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError, StorageError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.reading import os_errors
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.records import dataclass

__all__ = ["Input", "open_input"]

#: Bytes of a line; longer ones are bad records.
MAX_LINE = 16 << 20
_READ = 1 << 20
_NEWLINE = 10


class Input(Protocol):
    """A file of rows. It can be pickled, and read on every machine that has the file by the same path.

    Attributes
    ----------
    path : Path
    size : int
        Bytes.
    sha256 : str
    rows : int
        Lines, also empty ones, or rows.
    block_rows : int
        Rows of a block; the last one may have fewer.
    """

    path: Path
    size: int
    sha256: str
    rows: int
    block_rows: int

    def read(self, number: int) -> list[Row]:
        """Return the rows of a block, from 0; quickest in ascending order.

        Raises
        ------
        StorageError
            If the file cannot be read, or has another size than before.
        FormatError
            If it is damaged.
        """
        ...

    def check_unchanged(self) -> None:
        """Raise StorageError if the file has changed since it was opened; on the machine that opened it."""
        ...


def open_input(path: Path, field: str, block_rows: int) -> Input:
    """Return the input in a file, by the end of its name.

    Parameters
    ----------
    path : Path
    field : str
        The field of a record that a line of text becomes.
    block_rows : int

    Raises
    ------
    ConfigError
        If the name ends in something else.
    StorageError
        If the file cannot be read.
    MissingDependencyError
        If it is a Parquet file, and pyarrow is not installed.
    FormatError
        If it is not a Parquet file.
    """
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _Lines(path, block_rows, partial(_json, path))
    if suffix == ".txt":
        return _Lines(path, block_rows, partial(_text, field))
    if suffix == ".parquet":
        return _Parquet(path, block_rows)
    got = repr(suffix) if suffix else "a name without an ending"
    raise ConfigError(
        f"{path}: expected a file whose name ends in .jsonl (an object on each line), .txt (a text on each line) or "
        f".parquet, got {got}; convert it to one of them"
    )


@dataclass(frozen=True)
class _Scan:
    """What is known of a file after it was read once.

    Attributes
    ----------
    identity : FileIdentity
    size : int
    sha256 : str
    lines : int
    starts : array of int
        Offsets of the lines that blocks begin with.
    """

    identity: FileIdentity
    size: int
    sha256: str
    lines: int
    starts: array[int]


def _scan(path: Path, block_rows: int) -> _Scan:
    identity = FileIdentity.of(path)
    digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    starts = array("q", [0])
    with os_errors(path, "open"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path}: expected a regular file, which a later run can read again; copy it to one")
    with os_errors(path, "read"), path.open("rb") as file:
        while data := file.read(_READ):
            digest.update(data)
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
            # The end of line number k * block_rows, from 1, is before block k.
            starts.extend((size + 1 + ends[block_rows - 1 - lines % block_rows :: block_rows]).tolist())
            size += len(data)
            lines += len(ends)
            last = data[-1:]
    return _Scan(identity, size, digest.hexdigest(), lines + (last != b"\n"), starts)


def _check_size(path: Path, file: Any, size: int) -> None:
    """Raise StorageError if an open file has another size."""
    found = file.seek(0, 2)
    if found != size:
        raise StorageError(f"{path}: expected {size} bytes as at the start of the run, got {found}; the file changed")


class _Lines:
    """A file with a record in each line; empty lines are not records."""

    def __init__(self, path: Path, block_rows: int, parse: Callable[[int, bytes], dict[str, Any] | str]) -> None:
        self.path = path
        self.block_rows = block_rows
        self._scan = _scan(path, block_rows)
        self.size, self.sha256, self.rows = self._scan.size, self._scan.sha256, self._scan.lines
        self._parse = parse

    def read(self, number: int) -> list[Row]:
        rows: list[Row] = []
        first = number * self.block_rows + 1
        with os_errors(self.path, "read"), self.path.open("rb") as file:
            _check_size(self.path, file, self.size)
            file.seek(self._scan.starts[number])
            for place in range(first, min(first + self.block_rows, self.rows + 1)):
                line = _line(file)
                if place == 1:
                    line = line.removeprefix(BOM_UTF8)
                if len(line) > MAX_LINE:
                    rows.append((place, f"expected a line of at most {MAX_LINE} bytes, got a longer one"))
                elif line.strip():
                    rows.append((place, self._parse(place, line)))
        return rows

    def check_unchanged(self) -> None:
        self._scan.identity.check_unchanged()


def _line(file: Any) -> bytes:
    """Return the next line, without its end; of a line that is too long, its first MAX_LINE + 1 bytes."""
    line: bytes = file.readline(MAX_LINE + 1)
    rest = line
    while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
        rest = file.readline(MAX_LINE + 1)
    return line.removesuffix(b"\n").removesuffix(b"\r") if len(line) <= MAX_LINE else line


def _json(path: Path, number: int, line: bytes) -> dict[str, Any] | str:
    try:
        return parse_object(path, f"line {number}", line)
    except FormatError as error:
        return str(error).removeprefix(f"{path}: line {number}: ").removesuffix("; the file is damaged")


def _text(field: str, number: int, line: bytes) -> dict[str, Any] | str:
    try:
        return {"id": number, field: line.decode("utf-8")}
    except UnicodeDecodeError as error:
        return f"expected a text in UTF-8, got the byte {line[error.start]:#04x} at {error.start}"


class _Parquet:
    """A Parquet file: its columns are the fields of records."""

    def __init__(self, path: Path, block_rows: int) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise MissingDependencyError(
                f"{path}: Parquet needs pyarrow; run: pip install 'rwkv-cy[batch]', or convert it to JSONL"
            ) from error
        self.path = path
        self.block_rows = block_rows
        scan = _scan(path, 1 << 62)  # its bytes are not lines
        self.size, self.sha256, self._identity = scan.size, scan.sha256, scan.identity
        self._stream: Iterator[dict[str, Any]] = iter(())
        self._next = -1
        try:
            with os_errors(path, "read"), path.open("rb") as opened:
                metadata = pyarrow.parquet.ParquetFile(opened).metadata
                groups = [int(metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
        except pyarrow.ArrowException as error:
            raise FormatError(f"{path}: expected a Parquet file, got something else ({error})") from error
        #: The first row of each row group, and the end of the last.
        self._groups: list[int] = [0, *accumulate(groups)]
        self.rows = self._groups[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": iter(()), "_next": -1}

    def read(self, number: int) -> list[Row]:
        import pyarrow

        first = number * self.block_rows
        count = min(self.block_rows, self.rows - first)
        try:
            if not self._group_start(first) <= self._next <= first:
                self._open(first)
            rows = list(islice(self._stream, first - self._next, first - self._next + count))
        except pyarrow.ArrowException as error:
            raise FormatError(f"{self.path}: expected Parquet's rows, got damaged ones ({error})") from error
        if len(rows) < count:
            raise FormatError(f"{self.path}: expected {self.rows} rows as its metadata says, got fewer")
        self._next = first + count
        return list(enumerate(rows, first + 1))

    def _group_start(self, row: int) -> int:
        """Return the first row of the row group of a row."""
        return self._groups[bisect_right(self._groups, row) - 1]

    def _open(self, row: int) -> None:
        """Begin a stream at the row group of a row."""
        self._next = self._group_start(row)
        self._stream = self._rows(range(bisect_right(self._groups, row) - 1, len(self._groups) - 1))

    def _rows(self, groups: Sequence[int]) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet

        with os_errors(self.path, "read"), self.path.open("rb") as opened:
            _check_size(self.path, opened, self.size)
            file = pyarrow.parquet.ParquetFile(opened)
            for batch in file.iter_batches(batch_size=self.block_rows, row_groups=list(groups)):
                yield from batch.to_pylist()

    def check_unchanged(self) -> None:
        self._identity.check_unchanged()
