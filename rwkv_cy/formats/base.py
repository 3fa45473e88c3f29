"""Bytes of a file from a stranger: opened with care, read within bounds, and the caps that every reader shares."""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import FormatError, KernelError, StorageError

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_ELEMENTS",
    "MAX_HEADER_BYTES",
    "MAX_NAME_BYTES",
    "MAX_TENSORS",
    "FileBytes",
    "add_entry",
    "check_name",
    "check_shape",
    "decode_name",
    "os_errors",
]

#: The largest RWKV checkpoints have about 2,000 tensors.
MAX_TENSORS = 100_000
#: Longest description of tensors (a pickle, a JSON header) that is read into memory.
MAX_HEADER_BYTES = 64 << 20
#: Longest name of a tensor, in UTF-8.
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 8
#: Elements of one tensor; products stay far from 2**63, whatever the item size.
MAX_ELEMENTS = 1 << 48

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.ELOOP: "check where its symbolic links lead",
    errno.ENAMETOOLONG: "check the path",
    errno.EACCES: "make it readable for this user",
    errno.EPERM: "make it readable for this user",
    errno.EMFILE: "close other files first",
    errno.ENOMEM: "free memory or read without a memory map",
    errno.EIO: "check the disk, then copy the file again",
    errno.ESTALE: "mount the network file system again",
}

Entry = TypeVar("Entry")


@contextmanager
def os_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn any OSError of the block into a StorageError that names `path` and what was being done (``"open"``)."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the file and its disk")
        raise StorageError(f"{path}: cannot {doing} it: {error.strerror or error}; {remedy}") from error


def _open_regular(path: Path) -> int:
    """Open `path` for reading without ever waiting for it, and return the descriptor of a regular file."""
    try:
        with os_errors(path, "open"):
            _require_regular(path, path.stat().st_mode)
            # O_NONBLOCK: the path may have become a FIFO since, whose opening would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise StorageError(f"{str(path)!r}: expected a path, got a name that no file can have ({error})") from error
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
    raise StorageError(f"{path}: expected a regular file, got {kind}; name the file that holds the model")


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
        Bytes in the file when it was opened. Nothing outside of them is ever read.

    Raises
    ------
    StorageError
        If the path leads to no regular file, or the operating system refuses it.
    FormatError
        If the file is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open_regular(path)
        self._map: mmap.mmap | None = None
        self.size = os.fstat(self._descriptor).st_size
        if self.size == 0:
            self.close()
            raise FormatError(f"{path}: expected a model, got an empty file; download or copy it again")

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; FormatError if they leave the file."""
        self._check_span(offset, size)
        buffer = np.empty(size, np.uint8)
        self.read_into_at(offset, buffer)
        return buffer.tobytes()

    def read_into_at(self, offset: int, buffer: npt.NDArray[Any]) -> None:
        """Fill the whole of `buffer` (C-contiguous, any dtype) from `offset`.

        Raises
        ------
        FormatError
            If that leaves the file.
        KernelError
            If the buffer is not contiguous.
        """
        if not buffer.flags.c_contiguous:
            raise KernelError(f"buffer: expected a contiguous array to read into, got strides {buffer.strides}")
        self._check_span(offset, buffer.nbytes)
        descriptor = self._open_descriptor()
        view = buffer.reshape(-1).view(np.uint8)
        done = 0
        while done < view.size:
            with os_errors(self.path, "read"):
                count = os.preadv(descriptor, [view[done:].data], offset + done)
            if count == 0:
                raise self._truncated(offset + done)
            done += count

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """Return a read-only array of `shape` over the file's memory map.

        None if `offset` is misaligned for `dtype`, or if the file's system cannot map; FormatError if the array
        leaves the file. The array stays valid after :meth:`close`.
        """
        count = math.prod(shape)
        self._check_span(offset, count * dtype.itemsize)
        if offset % dtype.alignment:
            return None
        if self._map is None:
            self.check()
            try:
                self._map = mmap.mmap(self._open_descriptor(), self.size, access=mmap.ACCESS_READ)
            except OSError:
                return None
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def check(self) -> None:
        """Raise FormatError if the file is shorter than when it was opened: its map must no longer be touched."""
        with os_errors(self.path, "look at"):
            size = os.fstat(self._open_descriptor()).st_size
        if size < self.size:
            raise self._truncated(size)

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

    def _open_descriptor(self) -> int:
        if self._descriptor < 0:
            raise StorageError(f"{self.path}: expected an open file, got a closed one; open it again")
        return self._descriptor

    def _check_span(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(
                f"{self.path}: expected bytes within the {self.size} of the file, got {size} at {offset}; "
                "the file is cut short or damaged: download or copy it again"
            )

    def _truncated(self, size: int) -> FormatError:
        return FormatError(
            f"{self.path}: expected {self.size} bytes, got {size}: the file was cut while it was open; "
            "copy it again and open it anew"
        )


def check_name(path: Path, name: object) -> str:
    """Return the name of a tensor, if it is one that can be shown, stored and looked up.

    Raises
    ------
    FormatError
        If it is no string, empty, longer than MAX_NAME_BYTES, unprintable (NUL, controls, lone surrogates), or like
        a path that leads elsewhere.
    """
    if not isinstance(name, str):
        raise FormatError(f"{path}: expected a tensor's name as text, got {type(name).__name__}; the file is damaged")
    problem = None
    if not name:
        problem = "is empty"
    elif len(name) > MAX_NAME_BYTES or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        problem = f"is longer than {MAX_NAME_BYTES} bytes"
    elif not name.isprintable():
        problem = "has characters that cannot be printed"
    elif not {"", ".", ".."}.isdisjoint(name.split("/")):
        problem = "looks like a path"
    if problem:
        raise FormatError(f"{path}: expected the name of a tensor, got {name[:40]!r}, which {problem}")
    return name


def decode_name(path: Path, raw: bytes) -> str:
    """Return the name that `raw` spells in UTF-8; FormatError if it spells none or :func:`check_name` refuses it."""
    if len(raw) > MAX_NAME_BYTES:
        raise FormatError(
            f"{path}: expected the name of a tensor, got {raw[:40]!r}, which is longer than {MAX_NAME_BYTES} bytes"
        )
    try:
        return check_name(path, raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected a tensor's name in UTF-8, got {raw[:40]!r}") from error


def check_shape(path: Path, name: str, shape: Sequence[object]) -> tuple[int, ...]:
    """Return the shape of tensor `name`, if its dimensions are sane.

    Raises
    ------
    FormatError
        If there are more than MAX_DIMENSIONS, one is no integer or below 1, or their product is above MAX_ELEMENTS.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{path}: {name}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    sizes: list[int] = []
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_ELEMENTS:
            shown = size if isinstance(size, int) else type(size).__name__
            raise FormatError(f"{path}: {name}: expected dimensions from 1 to 2**48, got {shown}")
        sizes.append(size)
    if math.prod(sizes) > MAX_ELEMENTS:
        raise FormatError(f"{path}: {name}: expected at most 2**48 elements, got shape {tuple(sizes)}")
    return tuple(sizes)


def add_entry(path: Path, table: dict[str, Entry], name: object, entry: Entry) -> None:
    """Add a tensor to a reader's table under a checked name.

    Raises
    ------
    FormatError
        If the name is bad or there already, or the table is full (MAX_TENSORS).
    """
    checked = check_name(path, name)
    if checked in table:
        raise FormatError(f"{path}: {checked}: expected one tensor of that name, got two; the file is damaged")
    if len(table) >= MAX_TENSORS:
        raise FormatError(f"{path}: expected at most {MAX_TENSORS} tensors, got more; this is no RWKV model")
    table[checked] = entry
