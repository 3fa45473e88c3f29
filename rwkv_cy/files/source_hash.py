"""The file that a conversion reads, as bytes: its hash, its size, and whether it changed meanwhile."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.identity import FileIdentity

__all__ = ["SourceHash"]

#: Read and hashed at once. The lock of the interpreter is taken twice for each; more would leave the caches.
_CHUNK = 2 << 20


class SourceHash:
    """SHA-256 of some files, one after the other, computed in a thread of its own.

    ``hashlib`` lets go of the interpreter's lock, so that a second core hashes while the first converts. A context
    manager: leaving it stops the thread, whether or not it was done.

    Parameters
    ----------
    files : sequence of FileIdentity
        The files as they were looked at, in the order in which their bytes are hashed.

    Attributes
    ----------
    files : tuple of FileIdentity
    """

    def __init__(self, files: Sequence[FileIdentity]) -> None:
        self.files = tuple(files)
        self._started = self._hashed = False
        self._stop = threading.Event()
        self._digest = hashlib.sha256()
        self._error: OSError | MemoryError | None = None
        self._thread = threading.Thread(target=self._run, name="rwkv_cy-sha256", daemon=True)

    @classmethod
    def ahead(cls, path: Path) -> SourceHash:
        """Return the hash of a source that nobody has opened yet, and so may be anything.

        Of a regular file it is that of the file. For all else it is of no files at all: a folder has to be read to
        know which of its files are the source, and what there is to complain of is for the reader to say.
        """
        try:
            status = path.stat()
        except (OSError, ValueError):
            return cls(())
        return cls((FileIdentity.from_status(path, status),) if stat.S_ISREG(status.st_mode) else ())

    @property
    def size(self) -> int:
        """Bytes of all the files together."""
        return sum(file.size for file in self.files)

    def _run(self) -> None:
        try:
            buffer = bytearray(_CHUNK)
            window = memoryview(buffer)
            for file in self.files:
                with open(file.path, "rb", buffering=0, opener=_open_without_waiting) as stream:
                    while not self._stop.is_set():
                        count = stream.readinto(buffer)
                        if not count:
                            break
                        self._digest.update(window[:count])
        except (OSError, MemoryError) as error:
            self._error = error

    def hexdigest(self) -> str:
        """Wait for the end and return the hash, in hexadecimal.

        Raises
        ------
        StorageError
            If a file could not be read, or changed while it was.
        """
        self._finish()
        if isinstance(self._error, MemoryError):
            raise self._error
        if self._error is not None:
            name = os.fsdecode(self._error.filename) if self._error.filename else str(self.files[0].path)
            raise StorageError(f"{name}: {self._error.strerror}; the source could not be read") from self._error
        for file in self.files:
            file.check_unchanged()
        return self._digest.hexdigest()

    def _finish(self) -> None:
        if self._started:
            self._thread.join()
        elif not self._hashed:
            self._hashed = True
            self._run()

    def stop(self) -> None:
        """Stop the thread, whether or not it was done, and wait for its end."""
        self._stop.set()
        if self._started:
            self._thread.join()

    def __enter__(self) -> SourceHash:
        if self._started:
            return self  # it ran ahead
        # Where no thread can be had (the limits of a container), the end hashes.
        with suppress(RuntimeError):
            self._thread.start()
            self._started = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file that may have become a FIFO since it was looked at, whose opening would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
