"""Which file it is, and in which state: what is compared to notice that a file changed while it was read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rwkv_cy.errors import StorageError

__all__ = ["FileIdentity"]


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
        return cls.from_status(path, status)

    @classmethod
    def from_status(cls, path: Path, status: os.stat_result) -> FileIdentity:
        """Return the identity of the file `path`, of which the operating system says `status`."""
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check_unchanged(self) -> None:
        """Raise StorageError if the file is no longer the one that was looked at."""
        if FileIdentity.of(self.path) != self:
            raise StorageError(
                f"{self.path}: expected a file that stays as it is, got one that changed while it was read; "
                "wait until whatever writes it is done, then try again"
            )
