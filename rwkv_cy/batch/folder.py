"""The folder of a batch: its manifest, and files of whole blocks, each complete or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkv_cy.batch.records import Done, Totals
from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.files.locks import lock_folder
from rwkv_cy.files.reading import FileBytes, os_errors
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.files.temporary import remove_abandoned
from rwkv_cy.records import asdict, fields

__all__ = ["Folder"]

MANIFEST = "manifest.json"
SCHEMA = "rwkv-cy/batch-manifest/1"
_BLOCK = re.compile(r"(\d{6,18})\.json")
_MOST_BYTES = 1 << 20
#: Members of the manifest that do not have to be those of an earlier run.
_FREE = ("created", "version")


class Folder:
    """An output folder.

    Parameters
    ----------
    path : Path
        Made if it does not exist.

    Notes
    -----
    ``answers-000000.jsonl`` has the answers of block 0, ``errors/errors-000000.jsonl`` its bad records, if there are
    any, and ``blocks/000000.json`` its sums. The last is written after the others: the block is complete if it is
    there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the folder for one run, until the block ends or the process dies.

        Raises
        ------
        StorageError
            If another run holds it, or it cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(f"{self.path} is a file, and the answers need a folder; choose another name")
        with os_errors(self.path, "create"):
            for folder in (self.path, self.path / "blocks", self.path / "errors"):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / f".lock-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            lock_folder(self.path, descriptor, "folder")
            yield
        finally:
            os.close(descriptor)

    def check(self) -> None:
        """Raise StorageError if the folder has other files than those of a batch, before anything is written."""
        with os_errors(self.path, "read"):
            if self.path.is_dir() and not (self.path / MANIFEST).exists():
                others = [one.name for one in self.path.iterdir() if one.name not in ("blocks", "errors")]
                others = [name for name in others if not name.startswith((".lock-", f".{MANIFEST}."))]
                if others:
                    raise StorageError(
                        f"{self.path}: expected a new or empty folder, or that of an earlier run, got one with "
                        f"{min(others)}; choose another folder"
                    )

    def agree(self, manifest: Mapping[str, Any]) -> int:
        """Write the manifest, or compare it with that of an earlier run; return the time of the first run.

        Raises
        ------
        ConfigError
            If the earlier run had another input, model or settings.
        FormatError
            If the manifest is damaged.
        """
        path = self.path / MANIFEST
        own = json.loads(json.dumps({"schema": SCHEMA, **manifest}))
        if not path.exists():
            try:
                _write(path, (json.dumps(own, indent=2) + "\n").encode(), overwrite=False)
            except StorageError:
                if not path.exists():  # otherwise another part of the same batch wrote it
                    raise
        remove_abandoned(path)  # of a run that was killed after it wrote the manifest
        earlier = _read(path)
        ours, theirs = dict(_members(own)), dict(_members(earlier))
        for name in (*ours, *theirs):
            if name not in _FREE and ours.get(name) != theirs.get(name):
                raise ConfigError(
                    f"{path}: expected the same {name} as in the earlier run, {json.dumps(theirs.get(name))[:80]}, "
                    f"got {json.dumps(ours.get(name))[:80]}; choose another folder"
                )
        created = earlier.get("created")
        if type(created) is not int:
            raise FormatError(f"{path}: created: expected an integer, got {str(created)[:40]!r}; the file is damaged")
        return created

    def complete_blocks(self) -> dict[int, Totals]:
        """Return the sums of the complete blocks by their numbers.

        Raises
        ------
        FormatError
            If a file is damaged.
        """
        with os_errors(self.path, "read"):
            names = sorted(one.name for one in (self.path / "blocks").iterdir())
        numbers = {int(match[1]): name for name in names if (match := _BLOCK.fullmatch(name))}
        shards = {number for number in numbers if self._shard(number).exists()}
        return {number: _totals(self.path / "blocks" / numbers[number]) for number in sorted(shards)}

    def write(self, done: Done) -> None:
        """Write the files of a block; the one that makes it complete is the last."""
        number = done.block.number
        self.write_errors(done)
        _write(self._shard(number), _lines(done.answers.values()), overwrite=True)
        values = json.dumps(asdict(done.totals)) + "\n"
        _write(self.path / "blocks" / f"{number:06}.json", values.encode(), overwrite=True)

    def write_errors(self, done: Done) -> None:
        """Write the bad records of a block, if there are any."""
        if done.bad:
            path = self.path / "errors" / f"errors-{done.block.number:06}.jsonl"
            _write(path, _lines(one.to_dict() for one in done.bad), overwrite=True)

    def _shard(self, number: int) -> Path:
        return self.path / f"answers-{number:06}.jsonl"


def _members(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the members of a manifest; those of an object in it one by one, as ``settings.seed``."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{inner}", one) for inner, one in value.items())
        else:
            yield name, value


def _lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(value, allow_nan=False).encode() + b"\n" for value in values)


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    with Replacement(path, overwrite=overwrite) as file:
        file.write_at(0, data)
        file.commit()


def _read(path: Path) -> dict[str, Any]:
    with FileBytes(path) as file:
        if file.size > _MOST_BYTES:
            raise FormatError(f"{path}: expected at most {_MOST_BYTES} bytes, got {file.size}; the file is damaged")
        return parse_object(path, "file", file.read_at(0, file.size))


def _totals(path: Path) -> Totals:
    values = _read(path)
    names = {one.name for one in fields(Totals)}
    if set(values) != names or not all(type(value) in (int, float) for value in values.values()):
        raise FormatError(f"{path}: expected the numbers {', '.join(sorted(names))}; the file is damaged: remove it")
    return Totals(**values)
