"""Arrays whose elements are not in C order: how far they reach, and their elements read in that order."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

__all__ = ["is_contiguous", "read_strided", "span"]


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether strides, in elements, are those of C order; those of axes of length 1 do not matter."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of elements from the first to the last, for strides that are not negative."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def read_strided(array: npt.NDArray[Any], buffer: npt.NDArray[Any], start: int) -> None:
    """Fill `buffer` (1-D, of the same type) with the elements of `array` in C order, from `start` on.

    Copies whole rows of the first axis, so that the memory needed is that of the buffer and one row.
    """
    if array.ndim == 0:
        buffer[:] = array
        return
    row = math.prod(array.shape[1:])
    first, last = start // row, -(-(start + buffer.size) // row)
    offset = start - first * row
    buffer[:] = array[first:last].reshape(-1)[offset : offset + buffer.size]
