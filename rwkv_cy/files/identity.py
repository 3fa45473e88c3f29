"""Identity of a file and its last change, to detect that it changed while it was read."""

from __future__ import annotations

import os
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.records import dataclass

__all__ = ["FileIdentity"]


@dataclass(frozen=True)
class FileIdentity:
    """Identity of a file and its last change, without its content.

    Attributes
    ----------
    path : Path
    device, inode : int
        As the operating system identifies the file.
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
        """Return the identity of the file `path`.

        Raises
        ------
        StorageError
            If the operating system reports an error.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}; give the path of a file that can be read") from error
        return cls.from_status(path, status)

    @classmethod
    def from_status(cls, path: Path, status: os.stat_result) -> FileIdentity:
        """Return the identity of the file `path` from its stat result."""
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise StorageError if the file has changed or was replaced."""
        if FileIdentity.of(self.path) != self:
            raise StorageError(
                f"{self.path}: expected an unchanged file, got one that changed while it was read; "
                "wait until it is complete, then try again"
            )
