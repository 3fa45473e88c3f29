"""The disk level of the cache: one state file for each snapshot, found by a digest of the text before it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

import numpy.typing as npt

from rwkv_cy.engine.state_cache.radix_tree import Tokens
from rwkv_cy.errors import RWKVError, StorageError
from rwkv_cy.kernels.dispatch import active_instruction_set
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state_files import load_state

__all__ = ["DiskLevel", "model_identity"]

#: The text before the state, and how many tokens it has.
_NAME = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,11})\.h5")
#: Snapshots that wait to be written; further ones are not written, since each holds its memory meanwhile.
_MOST_PENDING = 8


def model_identity(model: LanguageModel) -> str:
    """Return a digest of all that the bits of a state depend on, beside its text."""
    digest = blake2b(digest_size=16)
    types = sorted((name, parameter.dtype) for name, parameter in model.parameters.items())
    for part in (model.fingerprint, repr(model.config), model.activations, active_instruction_set(), repr(types)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


class DiskLevel:
    """State files in a folder of the model's own.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    identity : str
        Of the model; names a folder in it.
    model : LanguageModel
    max_bytes : int
        Limit of the files; those used least lately are removed.

    Raises
    ------
    StorageError
        If the folder cannot be made or read.

    Attributes
    ----------
    errors : int
        Files that could not be written, or were damaged and are removed.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: str, model: LanguageModel, max_bytes: int) -> None:
        self._folder = Path(folder) / identity
        self._model = model
        self._max_bytes = max_bytes
        self._lock = Lock()  # guards the index, which the writing thread changes too
        self._files: dict[tuple[str, int], int] = {}  # bytes by text; those used least lately first
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="rwkv-cy states")
        self._pending: list[Future[None]] = []
        self.errors = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = [(entry, entry.stat()) for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name)]
        except OSError as error:
            raise StorageError(
                f"{self._folder}: cannot be a folder for states: {error.strerror or error}; name another one"
            ) from None
        for entry, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                self._files[match[1], int(match[2])] = stat.st_size

    @property
    def files(self) -> int:
        """Number of files."""
        return len(self._files)

    @property
    def bytes(self) -> int:
        """Their bytes."""
        with self._lock:
            return sum(self._files.values())

    def load(self, key: Sequence[str], tokens: Tokens, least: int) -> tuple[npt.NDArray[Any] | None, int]:
        """Return the state of the longest stored prefix of `tokens` of at least so many, and its length.

        A prefix is shorter than `tokens`, since the logits after it are not stored. The state is None if there is none.
        """
        with self._lock:
            counts = sorted({count for _, count in self._files if least <= count < len(tokens)})
            known = set(self._files)
        digests = _digests(key, tokens, counts)
        for count in reversed(counts):
            entry = digests[count], count
            if entry in known and (state := self._read(entry)) is not None:
                return state, count
        return None, 0

    def save(self, key: Sequence[str], tokens: Tokens, state: npt.NDArray[Any], *, wait: bool = False) -> None:
        """Write the state after `tokens` in the background, unless it is there.

        If too many states wait to be written, this one is dropped, or with `wait` written after the first of them.
        """
        entry = _digests(key, tokens, [len(tokens)])[len(tokens)], len(tokens)
        self._pending = [each for each in self._pending if not each.done()]
        if wait and len(self._pending) >= _MOST_PENDING:
            self._pending.pop(0).result()
        if entry not in self._files and len(self._pending) < _MOST_PENDING:
            self._pending.append(self._writer.submit(self._write, entry, state))

    def flush(self) -> None:
        """Wait until everything is written."""
        for each in self._pending:
            each.result()

    def close(self) -> None:
        """Wait until everything is written, and end the writing thread."""
        self._writer.shutdown()

    def _path(self, entry: tuple[str, int]) -> Path:
        return self._folder / f"{entry[0]}-{entry[1]}.h5"

    def _read(self, entry: tuple[str, int]) -> npt.NDArray[Any] | None:
        path = self._path(entry)
        try:
            state = load_state(self._model, path)
            os.utime(path)
        except (RWKVError, OSError):
            self._remove(entry)
            self.errors += 1
            return None
        with self._lock:
            self._files[entry] = self._files.pop(entry, state.nbytes)
        return state.data

    def _write(self, entry: tuple[str, int], data: npt.NDArray[Any]) -> None:
        path = self._path(entry)
        state = self._model.initial_state()
        state.data[...] = data
        try:
            state.save(path, overwrite=True)
            size = path.stat().st_size
        except (RWKVError, OSError):
            self.errors += 1
            return
        with self._lock:
            self._files[entry] = size
            total = sum(self._files.values())
            old = []
            for other, nbytes in self._files.items():
                if total <= self._max_bytes:
                    break
                total -= nbytes
                old.append(other)
        for other in old:
            self._remove(other)

    def _remove(self, entry: tuple[str, int]) -> None:
        self._path(entry).unlink(missing_ok=True)
        with self._lock:
            self._files.pop(entry, None)


def _digests(key: Sequence[str], tokens: Tokens, counts: Sequence[int]) -> dict[int, str]:
    """Return digests of the first tokens, for each of the ascending counts of them."""
    digest = blake2b(repr(tuple(key)).encode() + b"\0", digest_size=16)
    result, done = {}, 0
    for count in counts:
        digest.update(tokens[done:count].astype("<i4").tobytes())
        result[count] = digest.hexdigest()
        done = count
    return result
