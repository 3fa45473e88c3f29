"""Inputs of a batch: rows of JSONL, text and Parquet files, in blocks."""

from __future__ import annotations

import hashlib
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rwkv_cy.batch.records import Row
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError, StorageError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.reading import os_errors
from rwkv_cy.files.strict_json import parse_object

__all__ = ["Input", "open_input"]

#: Bytes of a line; longer ones are bad records.
MAX_LINE = 16 << 20
_READ = 1 << 20


class Input(Protocol):
    """A file of rows.

    Attributes
    ----------
    path : Path
    size : int
        Bytes.
    sha256 : str
    rows : int
        Lines, also empty ones, or rows.
    """

    path: Path
    size: int
    sha256: str
    rows: int

    def blocks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[Row]]]:
        """Yield the wanted blocks: their numbers, from 0, and their rows; `size` rows each, but the last."""
        ...


def open_input(path: Path, field: str) -> Input:
    """Return the input in a file, by the end of its name.

    Parameters
    ----------
    path : Path
    field : str
        The field of a record that a line of text becomes.

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
        return _Lines(path, lambda number, line: _json(path, number, line))
    if suffix == ".txt":
        return _Lines(path, lambda number, line: _text(field, number, line))
    if suffix == ".parquet":
        return _Parquet(path)
    raise ConfigError(f"{path}: expected a file name that ends in .jsonl, .txt or .parquet, got {suffix!r}; rename it")


def _digest(path: Path) -> tuple[int, str, int]:
    """Return the size of a file, its SHA-256, and the number of its lines."""
    digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    with os_errors(path, "open"):
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError(f"{path}: expected a regular file, which a later run can read again; copy it to one")
    with os_errors(path, "read"), path.open("rb") as file:
        while data := file.read(_READ):
            digest.update(data)
            size += len(data)
            lines += data.count(b"\n")
            last = data[-1:]
    return size, digest.hexdigest(), lines + (last != b"\n")


class _Lines:
    """A file with a record in each line; empty lines are not records."""

    def __init__(self, path: Path, parse: Callable[[int, bytes], dict[str, Any] | str]) -> None:
        self.path = path
        self._identity = FileIdentity.of(path)
        self.size, self.sha256, self.rows = _digest(path)
        self._parse = parse

    def blocks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[Row]]]:
        with os_errors(self.path, "read"), self.path.open("rb") as file:
            for number in range(-(-self.rows // size)):
                first, lines = number * size + 1, (_line(file) for _ in range(min(size, self.rows - number * size)))
                if wanted(number):
                    yield number, list(self._rows(first, lines))
                else:
                    deque(lines, maxlen=0)
        self._identity.check_unchanged()

    def _rows(self, first: int, lines: Iterable[bytes]) -> Iterator[Row]:
        for place, line in enumerate(lines, first):
            if len(line) > MAX_LINE:
                yield place, f"expected a line of at most {MAX_LINE} bytes, got a longer one"
            elif line.strip():
                yield place, self._parse(place, line)


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

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise MissingDependencyError(
                f"{path}: Parquet needs pyarrow; run: pip install 'rwkv-cy[batch]', or convert it to JSONL"
            ) from error
        self.path = path
        self._identity = FileIdentity.of(path)
        self.size, self.sha256, _ = _digest(path)
        try:
            with os_errors(path, "read"), path.open("rb") as opened:
                self.rows = int(pyarrow.parquet.ParquetFile(opened).metadata.num_rows)
        except pyarrow.ArrowException as error:
            raise FormatError(f"{path}: expected a Parquet file, got something else ({error})") from error

    def blocks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[tuple[int, list[Row]]]:
        import pyarrow.parquet

        pending: list[Row] = []
        number, place = 0, 0
        try:
            with os_errors(self.path, "read"), self.path.open("rb") as opened:
                for batch in pyarrow.parquet.ParquetFile(opened).iter_batches(batch_size=size):
                    for row in batch.to_pylist():
                        place += 1
                        pending.append((place, row))
                        if len(pending) == size:
                            if wanted(number):
                                yield number, pending
                            pending, number = [], number + 1
                if pending and wanted(number):
                    yield number, pending
        except pyarrow.ArrowException as error:
            raise FormatError(f"{self.path}: expected Parquet's rows, got damaged ones ({error})") from error
        self._identity.check_unchanged()
