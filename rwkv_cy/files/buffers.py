"""Memory that files are read into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["read_buffer"]

_PAGE = 4096
#: Smaller buffers are not worth a page more.
_LARGE = 64 << 10


def read_buffer(count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array for reading a file into: 1-D, not initialised.

    A large one begins at a page. The C library begins large allocations 16 bytes after a page, and some CPUs (Zen 3)
    copy four times as slowly to there from the start of a page, where model files have their tensors.
    """
    dtype = np.dtype(dtype)
    nbytes = count * dtype.itemsize
    if nbytes < _LARGE:
        return np.empty(count, dtype)
    memory = np.empty(nbytes + _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + nbytes].view(dtype)
