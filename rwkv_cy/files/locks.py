"""A folder that one process works on at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.reading import os_errors

__all__ = ["lock_folder"]

#: Errors of file systems that have no locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def lock_folder(folder: Path, descriptor: int, choose: str) -> None:
    """Lock a folder until a descriptor is closed or the process dies; on a file system without locks, do nothing.

    Parameters
    ----------
    folder : Path
        Named in errors.
    descriptor : int
        Of the folder, or of a file in it that every run opens.
    choose : str
        What the user can choose another one of, for the message.

    Raises
    ------
    StorageError
        If another process holds the lock, or the system cannot take it.
    """
    with os_errors(folder, "lock"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"{folder}: expected the folder of one run, got one that another process works on; wait for it, or "
                f"choose another {choose}"
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
