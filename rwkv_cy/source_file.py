"""The file that a conversion reads, as bytes: its hash, its size, and whether it changed meanwhile."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwkv_cy.errors import StorageError

__all__ = ["FileIdentity", "SourceHash", "source_files"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileIdentity:
    """What tells one state of a file from another without reading it.

    Attributes
    ----------
    path : Path
    device, inode : int
        Which file it is.
    size : int
        In bytes.
    modified_ns : int
        Time of the last change, in nanoseconds.
    """

    path: Path
    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """Look at the file `path`.

        Raises
        ------
        StorageError
            If the operating system does not let us.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}; give the path of a file that can be read") from error
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise StorageError if the file is no longer the one that was looked at."""
        if FileIdentity.of(self.path) != self:
            raise StorageError(
                f"{self.path}: expected a file that stays as it is, got one that changed while it was read; "
                "wait until whatever writes it is done, then try again"
            )


def source_files(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights of the checkpoint `path`.

    `path` itself; or, for a folder, its safetensors files in the order of their names, which number the shards.
    """
    return tuple(sorted(path.glob("*.safetensors"))) if path.is_dir() else (path,)


class SourceHash:
    """SHA-256 of some files, one after the other, computed in a thread of its own.

    ``hashlib`` lets go of the interpreter's lock, so that a second core hashes while the first converts. A context
    manager: leaving it stops the thread, whether or not it was done.

    Parameters
    ----------
    files : sequence of FileIdentity
        The files as they were looked at, in the order in which their bytes are hashed.
    """

    def __init__(self, files: Sequence[FileIdentity]) -> None:
        self._files = tuple(files)
        self._stop = threading.Event()
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="rwkv_cy-sha256", daemon=True)

    @property
    def size(self) -> int:
        """Bytes of all the files together."""
        return sum(file.size for file in self._files)

    def _run(self) -> None:
        buffer = bytearray(_CHUNK)
        window = memoryview(buffer)
        try:
            for file in self._files:
                with file.path.open("rb", buffering=0) as stream:
                    while not self._stop.is_set():
                        count = stream.readinto(buffer)
                        if not count:
                            break
                        self._digest.update(window[:count])
        except OSError as error:
            self._error = error

    def hexdigest(self) -> str:
        """Wait for the end and return the hash, in hexadecimal.

        Raises
        ------
        StorageError
            If a file could not be read, or changed while it was.
        """
        self._thread.join()
        if self._error is not None:
            name = os.fsdecode(self._error.filename) if self._error.filename else str(self._files[0].path)
            raise StorageError(f"{name}: {self._error.strerror}; the source could not be read") from self._error
        for file in self._files:
            file.check_unchanged()
        return self._digest.hexdigest()

    def __enter__(self) -> SourceHash:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
