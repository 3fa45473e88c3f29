"""Temporary files and folders beside a target: their names, their locks, and removal of those whose writer died."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["create_beside", "leftovers", "name_beside", "remove", "remove_abandoned"]

#: A temporary file of another machine, or on a file system without locks, belongs to a writer that died if it has not
#: been modified for so long.
_ABANDONED_SECONDS = 24 * 3600
#: Times that a new file or folder may be missing in a folder that exists before that is taken for an error.
_MOST_MISSING = 100
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def name_beside(target: Path, suffix: str = "tmp") -> Path:
    """Return a new name in the target's folder: ``.NAME.XXXXXXXX.tmp``.

    The first four hexadecimal digits are those of this boot of this machine, the others are random.
    """
    return target.with_name(f".{_stem(target)}.{_machine()}{secrets.token_hex(2)}.{suffix}")


def create_beside(target: Path, create: Callable[[Path], int]) -> tuple[Path, int]:
    """Create a temporary file or folder and lock it, so that other writers leave it alone as long as this one lives.

    Parameters
    ----------
    target : Path
    create : callable
        Creates a file or folder of the given name, which must not exist, and returns a descriptor.

    Returns
    -------
    tuple of Path and int
        Its path and the descriptor, which holds the lock until it is closed.

    Raises
    ------
    OSError
        As raised by `create`.
    """
    missing = 0
    while True:
        path = name_beside(target)
        try:
            descriptor = create(path)
        except FileExistsError:
            continue
        except FileNotFoundError:
            # Another writer takes a folder that is not locked yet for an abandoned one, and removes it before it is
            # opened. That the target's folder is missing is an error, or that it refuses all names, as /proc does.
            missing += 1
            if missing > _MOST_MISSING or not path.parent.exists():
                raise
            continue
        taken = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:
            pass  # without locks (some network file systems), its age tells that it is in use
        if not taken and path.exists():
            return path, descriptor
        os.close(descriptor)  # another writer removes it, or did so before it was locked


def remove_abandoned(target: Path) -> None:
    """Remove temporary files and folders of `target` that a dead writer left behind.

    Those of this machine are removed at once, since the system releases the lock of a process that dies; others when
    they have not been modified for a day.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    for path in leftovers(target):
        # Best effort: what is gone or not ours is skipped.
        with contextlib.suppress(OSError), _locked(path) as locked:
            ours = path.name.rpartition(".tmp")[0][-8:-4] == _machine()
            if (locked and ours) or path.lstat().st_mtime < time.time() - _ABANDONED_SECONDS:
                remove(path)


def leftovers(target: Path, suffix: str = "tmp") -> list[Path]:
    """Return the temporary files and folders of `target`, whoever writes them.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.[0-9a-f]{{8}}\.{suffix}")
    with os.scandir(target.parent) as entries:
        return [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name)]


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; OSError if the system refuses."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a temporary file and yield True, or False where there are no locks.

    Raises
    ------
    BlockingIOError
        If its writer is alive.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(descriptor)


@cache
def _machine() -> str:
    """Return four hexadecimal digits that tell this boot of this machine from others; random ones if it has no id.

    Where two machines share a folder, a lock of one may be invisible to the other.
    """
    try:
        return hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:4]
    except OSError:
        return secrets.token_hex(2)


def _stem(target: Path) -> str:
    """Return the target's name, shortened so that a temporary name fits into 255 bytes."""
    return os.fsdecode(os.fsencode(target.name)[:200].decode("utf-8", "ignore").encode())
