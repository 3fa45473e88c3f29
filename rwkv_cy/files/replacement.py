"""Atomic replacement: a file written under a temporary name, then renamed to its target."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from rwkv_cy.errors import StorageError
from rwkv_cy.files.temporary import create_beside, remove_abandoned
from rwkv_cy.units import byte_size

__all__ = ["NO_SPACE", "Replacement"]

#: Bytes in one write. From 1 MiB on, Linux backs a write with pages of 2 MiB, and under a hypervisor that takes free
#: memory back, getting those costs ten times as much as the write.
_WRITE_BYTES = 256 << 10
#: Bytes after which the disk begins to write them, so that the fsync at the end has little left to do.
_WRITE_OUT_BYTES = 8 << 20
#: A full disk, and a full quota.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Replacement:
    """Context manager: a new file that :meth:`commit` renames to `target`; without it, nothing changes.

    The new file is called ``.NAME.XXXXXXXX.tmp`` in the target's folder. It is removed at the end of the
    block unless it was committed. Only SIGKILL leaves it behind; a later writer of the same target removes it.

    Parameters
    ----------
    target : Path
        Path of the new file. A symbolic link is followed.
    overwrite : bool
        Whether it may replace an existing file.
    name : Path, optional
        What errors call it, if that is not `target`: its name in a folder that is not in its place yet.

    Raises
    ------
    StorageError
        If the target exists and may not be replaced, is not a regular file, or its folder is not writable.
    """

    def __init__(self, target: Path, *, overwrite: bool, name: Path | None = None) -> None:
        self.name = target
        self.overwrite = overwrite
        self.size = 0
        self._pending = 0
        try:
            self._check_target()
            self.target = Path(os.path.realpath(target))
            remove_abandoned(self.target)
            self.path, self.descriptor = create_beside(self.target, _new_file)
        except OSError as error:
            raise self.error(error, "create") from error
        except ValueError as error:
            raise StorageError(f"{str(target)!r}: expected a path, got an invalid file name ({error})") from error
        self.name = name or target

    def error(self, error: OSError, doing: str) -> StorageError:
        """Return the StorageError for an OSError."""
        if isinstance(error, StorageError):
            return error
        reason = error.strerror or str(error)
        if error.errno == errno.EFBIG and self.size:
            return StorageError(
                f"{self.name}: a file of {byte_size(self.size)} is larger than its file system (FAT32: 4 GiB) or a "
                f"limit of this process (ulimit -f) allows ({reason}); choose another folder or a smaller type"
            )
        if error.errno in NO_SPACE and self.size:
            return StorageError(
                f"{self.name}: not enough disk space: need {byte_size(self.size)}, {byte_size(self._free())} free "
                f"({reason}); free some space or choose another folder"
            )
        return StorageError(f"{self.name}: cannot {doing} it: {reason}; check the folder {self.name.parent}")

    def reserve(self, size: int) -> None:
        """Make the file `size` zero bytes long, with disk space allocated for all of them.

        Raises
        ------
        StorageError
            If there is not enough disk space.
        """
        self.size = size
        try:
            os.ftruncate(self.descriptor, 0)
            try:
                os.posix_fallocate(self.descriptor, 0, size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOSYS):
                    raise
                if self._free() < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                os.ftruncate(self.descriptor, size)
        except OSError as error:
            raise self.error(error, "reserve space for") from error

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`; StorageError if the operating system refuses."""
        view = memoryview(data).cast("B")
        while view:
            try:
                written = os.pwrite(self.descriptor, view[:_WRITE_BYTES], offset)
            except OSError as error:
                raise self.error(error, "write") from error
            offset += written
            view = view[written:]
            self._begin_write_out(offset, written)

    def _begin_write_out(self, end: int, size: int) -> None:
        """Note that `size` bytes more were written, up to `end`; have the disk begin with them if they are enough.

        Linux answers ``POSIX_FADV_DONTNEED`` by beginning to write what is not on the disk yet, without waiting, and
        leaves those pages in memory. It is a hint: what makes the file durable, and reports failed writes, is fsync.
        """
        self._pending += size
        if self._pending >= _WRITE_OUT_BYTES and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self.descriptor, end - self._pending, self._pending, os.POSIX_FADV_DONTNEED)
            self._pending = 0

    def sync_data(self) -> None:
        """Have what was written on the disk, if it is much; StorageError if the operating system refuses.

        :meth:`commit` does that as well. A caller that waits for another thread before it can write the rest calls this
        meanwhile, so that little is left to do at the end.
        """
        if self.size < _WRITE_OUT_BYTES:
            return
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise self.error(error, "finish writing") from error

    def commit(self, *, sync_folder: bool = True) -> None:
        """Rename the file to its target, after it is durable.

        Without `sync_folder`, the caller makes the name durable, with those of other files.

        Raises
        ------
        StorageError
            If the target exists and may not be replaced, if the file cannot be synchronised, or, after the rename, if
            its folder cannot.
        """
        try:
            os.fsync(self.descriptor)
            if self.overwrite:
                self.path.replace(self.target)
            else:
                self._put_where_nothing_is()
        except OSError as error:
            raise self.error(error, "finish writing") from error
        if not sync_folder:
            return
        try:
            self._sync_folder()
        except OSError as error:
            raise StorageError(
                f"{self.name}: complete, but its folder {self.target.parent} could not be synchronised: "
                f"{error.strerror}; the file may be missing after a power failure"
            ) from error

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        # A later writer removes what cannot be removed now; the original error matters more.
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _check_target(self) -> None:
        try:
            mode = self.name.stat().st_mode
        except FileNotFoundError:
            if self.name.is_symlink() and not self.overwrite:
                raise self._exists() from None
            return
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a special file"
            raise StorageError(f"{self.name} is {kind}, not a regular file; choose another name")
        if not self.overwrite:
            raise self._exists()

    def _exists(self) -> StorageError:
        return StorageError(f"{self.name} already exists; choose another name or pass --force (overwrite=True)")

    def _put_where_nothing_is(self) -> None:
        """Link the file to its target, which fails atomically if the target exists."""
        try:
            os.link(self.path, self.target)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Without hard links there is a race with other writers between these two lines.
            if os.path.lexists(self.target):
                raise self._exists() from None
            self.path.replace(self.target)

    def _sync_folder(self) -> None:
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems do not support it
                raise
        finally:
            os.close(folder)

    def _free(self) -> int:
        status = os.statvfs(self.target.parent)
        return status.f_bavail * status.f_frsize


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
