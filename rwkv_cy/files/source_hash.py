"""SHA-256 of the source of a conversion, computed in a thread, with a check that the source did not change."""

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

#: Bytes per read. Each takes the GIL twice; larger reads exceed the caches.
_CHUNK = 2 << 20


class SourceHash:
    """SHA-256 of the concatenated files, computed in a separate thread.

    ``hashlib`` releases the GIL, so that a second core hashes while the first converts. Leaving the context stops
    the thread, even if it is not finished.

    Parameters
    ----------
    files : sequence of FileIdentity
        The files, in the order in which they are hashed.

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
        """Return the hash of a source that has not been opened yet.

        For anything but a regular file it covers no files: a folder has to be read to know which of its files are
        the source, and errors are reported by the reader.
        """
        try:
            status = path.stat()
        except (OSError, ValueError):
            return cls(())
        return cls((FileIdentity.from_status(path, status),) if stat.S_ISREG(status.st_mode) else ())

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
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
        """Wait for the thread and return the hash in hexadecimal.

        Raises
        ------
        StorageError
            If a file could not be read, or changed meanwhile.
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
        """Stop the thread, even if it is not finished, and wait for it."""
        self._stop.set()
        if self._started:
            self._thread.join()

    def __enter__(self) -> SourceHash:
        if self._started:
            return self  # already running
        # If no thread can be started (limits of a container), hexdigest does the work.
        with suppress(RuntimeError):
            self._thread.start()
            self._started = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _open_without_waiting(path: str, flags: int) -> int:
    """Open without blocking: the path may have become a FIFO, and opening one waits for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)
