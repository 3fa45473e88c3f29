"""Atomic replacement of a folder: its files are written in a temporary folder beside it, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.exchange import exchange
from rwkv_cy.files.temporary import create_beside, leftovers, name_beside, remove, remove_abandoned

__all__ = ["FolderReplacement"]

#: The target has appeared, or has got a content, or has been taken away since it was examined.
_CHANGED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)


class FolderReplacement:
    """Context manager: a new folder that :meth:`commit` renames to `target`; without it, nothing changes.

    The new folder is called ``.NAME.XXXXXXXX.tmp``, beside the target. It is removed at the end of the block unless it
    was committed; only SIGKILL leaves it behind, and a later writer of the same target removes it.

    An older folder is exchanged with the new one in one step. On file systems that cannot, it is renamed to
    ``.NAME.XXXXXXXX.old`` first; if the process is killed just then, the next writer of the target restores it.

    Parameters
    ----------
    target : Path
        The folder. A symbolic link is followed.
    overwrite : bool
        Whether it may replace an existing folder that is not empty.
    replaceable : callable
        Whether the existing folder `target` is one that may be replaced.

    Attributes
    ----------
    path : Path
        The temporary folder.

    Raises
    ------
    StorageError
        If the target exists and may not be replaced, is not a folder, or its parent is not writable.
    """

    def __init__(self, target: Path, *, overwrite: bool, replaceable: Callable[[Path], bool]) -> None:
        self.name = target
        self._overwrite, self._replaceable = overwrite, replaceable
        try:
            self.target = Path(os.path.realpath(target))
            _restore(self.target)
            self._check_target()
            remove_abandoned(self.target)
            self._older = name_beside(self.target, "old")
            self.path, self._descriptor = create_beside(self.target, _new_folder)
        except OSError as error:
            raise self._error(error, "create") from error
        except ValueError as error:
            raise StorageError(f"{str(target)!r}: expected a path, got an invalid file name ({error})") from error

    def _check_target(self) -> None:
        try:
            mode = self.target.stat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            raise StorageError(f"{self.name}: expected a folder to replace, got a file; choose another name")
        try:
            if not any(self.target.iterdir()):
                return
        except FileNotFoundError:  # another writer has just renamed it
            return
        if not self._overwrite:
            raise StorageError(f"{self.name} already exists; choose another name or pass --force (overwrite=True)")
        if not self._replaceable(self.target):
            raise StorageError(
                f"{self.name}: expected a folder that holds a model and nothing else, got other files or folders in "
                "it, which would be lost; choose another name"
            )

    def commit(self) -> None:
        """Rename the folder to its target, whose old content is then removed.

        Raises
        ------
        StorageError
            If the operating system reports an error, or the target has got a content meanwhile that may not be
            replaced; the target is then unchanged at the end of the block.
        """
        try:
            _sync(self.path)
            while not self._put_in_place():
                pass
        except OSError as error:
            raise self._error(error, "finish writing") from error
        try:
            _sync(self.target.parent)
        except OSError as error:
            raise StorageError(
                f"{self.name}: complete, but its folder {self.target.parent} could not be synchronised: "
                f"{error.strerror}; it may be missing after a power failure"
            ) from error

    def _put_in_place(self) -> bool:
        """Rename the new folder to the target; return False if another writer changed the target between two steps."""
        self._check_target()  # writing takes long
        try:
            if not self.target.exists():
                self.path.rename(self.target)
            elif not exchange(self.path, self.target):
                self.target.rename(self._older)
                self.path.rename(self.target)
        except OSError as error:
            if error.errno not in _CHANGED or not self.path.exists() or not self.target.parent.exists():
                raise
            if self._older.exists() and self.target.exists():  # the target of another writer stands in its place
                shutil.rmtree(self._older, ignore_errors=True)
            return False
        return True

    def __enter__(self) -> FolderReplacement:
        return self

    def __exit__(self, *exc: object) -> None:
        # Here and not in commit, since an interrupt may come between any two of its steps.
        if not self._committed() and self._older.exists() and not self.target.exists():
            with contextlib.suppress(OSError):
                self._older.rename(self.target)
        # What cannot be removed has a hidden name.
        for path in (self.path, self._older):
            shutil.rmtree(path, ignore_errors=True)
        os.close(self._descriptor)

    def _committed(self) -> bool:
        """Whether the target is the new folder; its temporary name is that of the older one after an exchange."""
        try:
            return os.path.samestat(self.target.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _error(self, error: OSError, doing: str) -> StorageError:
        if isinstance(error, StorageError):
            return error
        reason = error.strerror or str(error)
        return StorageError(f"{self.name}: cannot {doing} it: {reason}; check the folder {self.name.parent}")


def _new_folder(path: Path) -> int:
    path.mkdir()
    return _open(path)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _restore(target: Path) -> None:
    """Rename the older folder of a writer that was killed between two renames back to `target`, or remove it.

    The names are listed before the target is examined: a writer that is alive and has renamed the older folder may
    not have put the new one in its place yet.
    """
    older = sorted(leftovers(target, "old"), key=_modified)
    if older and not target.exists():
        try:
            older.pop().rename(target)
        except OSError as error:
            if error.errno not in _CHANGED:  # another writer has just put it back, or a new one in its place
                raise
    for path in older:
        with contextlib.suppress(OSError):
            remove(path)


def _modified(path: Path) -> float:
    """Return when a path was modified; 0 if another writer has just removed it."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync(folder: Path) -> None:
    descriptor = _open(folder)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not support it
            raise
    finally:
        os.close(descriptor)
