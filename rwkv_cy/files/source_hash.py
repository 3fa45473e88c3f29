"""SHA-256 of the source of a conversion, computed in a thread, with a check that the source did not change."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.mapped import MappedFile

__all__ = ["SourceHash"]

#: Bytes that are mapped at a time: a multiple of every page size. Each takes the GIL once.
_WINDOW = 32 << 20
#: Bytes per read, where a window cannot be mapped.
_CHUNK = 2 << 20
#: Most files of a folder to hash ahead of its reader.
_MOST_FILES = 1000


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

        Of a folder it covers the files whose names end in ``.safetensors``, which are usually the source. For anything
        else but a regular file it covers no files. Errors are reported by the reader.
        """
        try:
            files = sorted(islice(path.glob("*.safetensors"), _MOST_FILES + 1)) if path.is_dir() else [path]
            statuses = [file.stat() for file in files]
        except (OSError, ValueError):
            return cls(())
        if len(files) > _MOST_FILES or not all(stat.S_ISREG(status.st_mode) for status in statuses):
            return cls(())
        return cls(tuple(map(FileIdentity.from_status, files, statuses)))

    @classmethod
    def of(cls, files: Sequence[FileIdentity], ahead: SourceHash | None) -> SourceHash:
        """Return `ahead` if it hashes `files` in their current state; otherwise stop it and return a new hash."""
        if ahead is None:
            return cls(files)
        if ahead.files == tuple(files):
            return ahead
        ahead.stop()
        return cls(files)

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.size for file in self.files)

    def _run(self) -> None:
        try:
            for file in self.files:
                descriptor = _open_without_waiting(file.path)
                try:
                    self._hash(descriptor)
                finally:
                    os.close(descriptor)
        except (OSError, MemoryError) as error:
            self._error = error

    def _hash(self, descriptor: int) -> None:
        position = 0
        while not self._stop.is_set() and (count := min(_WINDOW, os.fstat(descriptor).st_size - position)) > 0:
            _read_ahead(descriptor, position + count)
            if not self._hash_mapped(descriptor, position, count) and not self._hash_read(descriptor, position, count):
                break
            position += count

    def _hash_mapped(self, descriptor: int, position: int, count: int) -> bool:
        """Hash a window of the file from a memory map; False if that cannot be done safely, or for all of it."""
        digest = self._digest.copy()
        try:
            window = MappedFile(descriptor, count, position)
        except OSError:
            return False
        if not window.guarded:
            return False
        digest.update(window)
        if window.damaged:
            return False
        self._digest = digest
        return True

    def _hash_read(self, descriptor: int, position: int, count: int) -> bool:
        """Hash a window of the file by reads; False if the file ends before it does."""
        buffer = memoryview(bytearray(min(_CHUNK, count)))
        end = position + count
        while position < end and not self._stop.is_set():
            done = os.preadv(descriptor, [buffer[: end - position]], position)
            if not done:
                return False
            self._digest.update(buffer[:done])
            position += done
        return True

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
        try:
            # If no thread can be started (limits of a container), hexdigest does the work.
            with suppress(RuntimeError):
                self._thread.start()
                self._started = True
        except BaseException:  # an interrupt while the thread starts: nobody would stop it
            self._stop.set()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _open_without_waiting(path: Path) -> int:
    """Open without blocking: the path may have become a FIFO, and opening one waits for a writer."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def _read_ahead(descriptor: int, position: int) -> None:
    """Have the system read the window from `position` on, unless it is in the page cache, without waiting."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, position, _WINDOW, os.POSIX_FADV_WILLNEED)
