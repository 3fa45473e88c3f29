"""An arena: one allocation of anonymous memory, in pages of 2 MiB where possible, from which arrays are taken."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import KernelError, NotEnoughMemoryError

__all__ = ["Arena"]

_LARGE_PAGE = 2 << 20
#: Arrays begin on a cache line, which is also the size of an AVX-512 vector.
_ALIGNMENT = 64


class Arena:
    """One stretch of anonymous memory, zero until it is written to.

    It begins on a boundary of 2 MiB and requests pages of that size; where the system does not provide them
    (``MADV_HUGEPAGE`` exists on Linux, and an administrator may disable it), the pages have the usual size. It lives as
    long as any of its arrays.

    Parameters
    ----------
    size : int
        Bytes: the sum of :meth:`padded` over the arrays that will be taken.

    Raises
    ------
    NotEnoughMemoryError
        If the system does not give that much.
    """

    def __init__(self, size: int) -> None:
        try:
            # Private: a forked child shares the pages until one of the two writes.
            memory = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise NotEnoughMemoryError(
                f"Arena: expected {size / 2**20:,.0f} MiB for the parameters, got {error}; "
                "take a smaller dtype, or map the file"
            ) from error
        whole = np.frombuffer(memory, np.uint8)
        start = -whole.ctypes.data % _LARGE_PAGE
        self._bytes = whole[start : start + size]
        self._taken = 0
        large = size // _LARGE_PAGE * _LARGE_PAGE
        if large and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel built without them
                memory.madvise(mmap.MADV_HUGEPAGE, start, large)

    @staticmethod
    def padded(nbytes: int) -> int:
        """Return `nbytes` rounded up to whole cache lines: what an array takes of the arena."""
        return -(-nbytes // _ALIGNMENT) * _ALIGNMENT

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the next array: C-contiguous, beginning at a multiple of 64 bytes.

        Raises
        ------
        KernelError
            If more is taken than the arena was made for.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        end = self._taken + nbytes
        if end > self._bytes.size:
            raise KernelError(
                f"Arena: expected arrays within its {self._bytes.size} bytes, got {end}; "
                "make it for the padded size of every array"
            )
        array = self._bytes[self._taken : end].view(dtype).reshape(shape)
        self._taken += self.padded(nbytes)
        return array
