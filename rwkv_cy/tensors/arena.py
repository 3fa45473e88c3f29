"""An arena: one allocation of anonymous memory, in pages of 2 MiB where possible, from which arrays are allocated."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import KernelError, NotEnoughMemoryError
from rwkv_cy.units import byte_size

__all__ = ["Arena"]

_LARGE_PAGE = 2 << 20
#: Arrays begin on a cache line, which is also the size of an AVX-512 vector.
_ALIGNMENT = 64


class Arena:
    """One span of anonymous memory, initially zero.

    It begins on a boundary of 2 MiB and requests pages of that size. If the system does not provide them
    (``MADV_HUGEPAGE`` exists on Linux only, and an administrator may disable it), it has pages of the usual size. The
    memory is freed with the last of its arrays.

    Parameters
    ----------
    size : int
        Capacity in bytes: the sum of :meth:`padded` over all arrays.

    Raises
    ------
    NotEnoughMemoryError
        If the system cannot provide that much memory.
    """

    def __init__(self, size: int) -> None:
        try:
            # Private: a forked child shares the pages until one of the two writes.
            memory = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise NotEnoughMemoryError(
                f"not enough memory for the parameters: need {byte_size(size)} ({reason}); free some, or load them in "
                "a smaller dtype"
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
        """Return `nbytes` rounded up to whole cache lines, the size of an array in the arena."""
        return -(-nbytes // _ALIGNMENT) * _ALIGNMENT

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Allocate an array: C-contiguous, aligned to 64 bytes.

        Raises
        ------
        KernelError
            If the arena's capacity is exceeded.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        end = self._taken + nbytes
        if end > self._bytes.size:
            raise KernelError(
                f"Arena: expected arrays within its {self._bytes.size} bytes, got {end}; "
                "give it the padded size of every array"
            )
        array = self._bytes[self._taken : end].view(dtype).reshape(shape)
        self._taken += self.padded(nbytes)
        return array
