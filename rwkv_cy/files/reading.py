"""Bytes of an untrusted file: opened without blocking, read within bounds, mapped on request."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.errors import FormatError, KernelError, StorageError
from rwkv_cy.files.checksum import crc32
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.mapped import MappedFile
from rwkv_cy.files.similar import is_shard, similar_path
from rwkv_cy.hub_names import HubName, complete_url, is_repository, name_in_url
from rwkv_cy.units import exact_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["FileBytes", "is_folder", "new_file_path", "os_errors", "require_folder"]

_CRC_BLOCK = 1 << 20
_REMEDIES = {
    errno.EISDIR: "name a file in it",
    errno.ENOTDIR: "check the path",
    errno.ELOOP: "check where its symbolic links lead",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "make it readable for this user",
    errno.EPERM: "make it readable for this user",
    errno.EMFILE: "close other files first",
    errno.ENOMEM: "free memory or read without a memory map",
    errno.EIO: "check the disk, then copy the file again",
    errno.ESTALE: "mount the network file system again",
}
_UNKNOWN = "check the file and its disk"


def _elsewhere(path: Path) -> str:
    """Return what to do about a file that does not exist: it may be somewhere else than on this machine."""
    text = str(path)
    if text == "-":
        return "standard input is read for texts only, not for models: name a file"
    url = complete_url(text)
    if url is not None:
        name = name_in_url(url)
        if name is None:
            return "this looks like a URL: download the file, and name it"
        return f"this looks like a URL of the Hugging Face hub: name it as {name}"
    if is_repository(text) and not path.suffix[1:].isalpha() and not path.parent.exists():
        return f"this looks like a repository of the Hugging Face hub: name it as {HubName(text)}"
    if path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist: make the link anew"
    if os.path.isdir(f"{path}.training"):  # noqa: PTH112 (any name)
        return "its training has not ended: the same command goes on with it"
    meant = similar_path(path)
    if meant is not None:
        return f"did you mean {meant}?"
    if is_shard(path.name):
        return "a model in several files needs all of them: download it as well"
    return "check the path"


@contextmanager
def os_errors(path: Path, doing: str) -> Iterator[None]:
    """Convert an OSError of the block into a StorageError with `path` and the operation (``"open"``)."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        where = complete_url(str(path)) or path
        remedy = _elsewhere(path) if error.errno == errno.ENOENT else _REMEDIES.get(error.errno or 0, _UNKNOWN)
        raise StorageError(f"{where}: cannot {doing} it: {error.strerror or error}; {remedy}") from error


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder; raise StorageError if the operating system reports an error."""
    with os_errors(path, "open"):
        return path.is_dir()


def new_file_path(name: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write; StorageError for a slash at its end, which Path drops: a folder is named."""
    text = os.fspath(name)
    if text.endswith(os.sep):
        raise StorageError(f"expected the name of a file, got that of a folder, {text!r}; name a file in it")
    return Path(text)


def require_folder(path: Path) -> None:
    """Raise StorageError unless `path` is a folder that files can be written to."""
    if is_folder(path):
        return
    if path.exists():
        raise StorageError(f"{path} is a file, not a folder; choose another folder")
    raise StorageError(f"{path}: no such folder; create it first")


def _open_regular(path: Path) -> int:
    """Open a regular file for reading without blocking, and return its descriptor."""
    try:
        with os_errors(path, "open"):
            _require_regular(path, path.stat().st_mode)
            # O_NONBLOCK: the path may have become a FIFO meanwhile, and opening one waits for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise StorageError(f"{str(path)!r}: expected a path, got an invalid file name ({error})") from error
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode), "a device")
    remedy = "name a file in it" if stat.S_ISDIR(mode) else "copy what it gives to a file, and name that"
    raise StorageError(f"{path} is {kind}, not a regular file; {remedy}")


class FileBytes:
    """A regular file, opened for reading at any position.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    path : Path
    size : int
        Bytes in the file when it was opened. Nothing beyond is read.
    identity : FileIdentity
        Identity of the file when it was opened.

    Raises
    ------
    StorageError
        If the path is not a regular file, or the operating system reports an error.
    FormatError
        If the file is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open_regular(path)
        self._map: MappedFile | None = None
        self._lock = Lock()
        self.identity = FileIdentity.from_status(path, os.fstat(self._descriptor))
        self.size = self.identity.size
        if self.size == 0:
            self.close()
            raise FormatError(f"{path} is empty; download or copy it again")

    @property
    def descriptor(self) -> int:
        """Descriptor of the file, for positioned reads; StorageError when it is closed."""
        if self._descriptor < 0:
            raise StorageError(f"{self.path}: expected an open file, got a closed one; open it again")
        return self._descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; raise FormatError if they are outside the file."""
        self._check_span(offset, size)
        descriptor = self.descriptor
        try:
            data = os.pread(descriptor, size, offset)
        except OSError:  # not in the block itself, which takes longer than a short read: directories need thousands
            with os_errors(self.path, "read"):
                raise
        if len(data) == size:  # in one call, as nearly always
            return data
        buffer = bytearray(size)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into_at(self, offset: int, buffer: npt.NDArray[Any]) -> None:
        """Fill the whole of `buffer` (C-contiguous, any dtype) from `offset`.

        Raises
        ------
        FormatError
            If the bytes are outside the file.
        KernelError
            If the buffer is not contiguous.
        """
        if not buffer.flags.c_contiguous:
            raise KernelError(f"buffer: expected a contiguous array to read into, got strides {buffer.strides}")
        self._check_span(offset, buffer.nbytes)
        self._fill(offset, buffer.reshape(-1).view(np.uint8).data)

    def _fill(self, offset: int, view: memoryview) -> None:
        """Fill a view of bytes from `offset`, within the file."""
        descriptor = self.descriptor
        done = 0
        while done < len(view):
            with os_errors(self.path, "read"):
                count = os.preadv(descriptor, [view[done:]], offset + done)
            if count == 0:
                self.check()  # reports the current size if the file is shorter now
                raise self._truncated(offset + done)
            done += count

    def crc32(self, offset: int, size: int, progress: Callable[[int], None] | None = None) -> int:
        """Return the CRC-32 of a span of the file, read block by block; FormatError if it leaves the file.

        `progress` is called with the bytes of each block.
        """
        self._check_span(offset, size)
        # It begins at a page, as read_buffer's, and needs no NumPy, which describing a file does not load.
        buffer = memoryview(mmap(-1, max(1, min(size, _CRC_BLOCK)), MAP_PRIVATE | MAP_ANONYMOUS))
        crc = 0
        for start in range(0, size, _CRC_BLOCK):
            block = buffer[: min(_CRC_BLOCK, size - start)]
            self._fill(offset + start, block)
            crc = crc32(block, crc)
            if progress is not None:
                progress(len(block))
        return crc

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """Return a read-only array of `shape` over the file's memory map.

        None if `offset` is misaligned for `dtype`, or if the file system cannot map. Raises FormatError if the array
        is outside the file. The array stays valid after :meth:`close`.
        """
        count = math.prod(shape)
        self._check_span(offset, count * dtype.itemsize)
        if offset % dtype.alignment:
            return None
        with self._lock:  # one map, since check() looks at one
            if self._map is None:
                self.check()
                try:
                    self._map = MappedFile(self.descriptor, self.size)
                except OSError:
                    return None
            mapped = memoryview(self._map)
        return np.frombuffer(mapped, dtype, count, offset).reshape(shape)

    def check(self) -> None:
        """Raise an error if the file's map must not be used, or what was read from it before is wrong.

        Raises
        ------
        FormatError
            If the file is shorter than when it was opened, or was in the meantime.
        StorageError
            If its disk failed.
        """
        with os_errors(self.path, "look at"):
            size = os.fstat(self.descriptor).st_size
        if size < self.size:
            raise self._truncated(size)
        if self._map is not None and self._map.damaged:
            raise StorageError(
                f"{self.path}: cannot read it: a part of it was missing for a time, or its disk failed; "
                f"{_REMEDIES[errno.EIO]}, and reopen it"
            )

    def close(self) -> None:
        """Close the file; arrays from :meth:`view` keep its map alive."""
        self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def _check_span(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                f"{self.path}: expected bytes within the {self.size} of the file, got {size} at {offset}; "
                "the file is cut short or damaged: download or copy it again"
            )

    def _truncated(self, size: int) -> FormatError:
        return FormatError(
            f"{self.path}: expected {exact_bytes(self.size)}, got {exact_bytes(size)}: the file was truncated "
            "while it was open; "
            "copy it again and reopen it"
        )
