"""Exchange of two paths in one step, which Python does not have."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["exchange"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
#: What systems and file systems without the operation answer; EPERM is that of containers whose filter of system calls
#: does not know it. Where a permission is really missing, renaming reports it.
_MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two existing paths atomically: each is the other afterwards, and at no moment is one of them missing.

    Returns
    -------
    bool
        False if the system or the file system does not have the operation; nothing has changed then.

    Raises
    ------
    OSError
        If the operating system refuses.
    """
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _MISSING:
        return False
    raise OSError(number, os.strerror(number), str(second))


@cache
def _renameat2() -> Any:
    """Return the function of the C library; None if it has none (before Linux 3.15 and glibc 2.28, other systems)."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        function.restype = ctypes.c_int
    return function
