"""Arrays whose elements are not in C order: how far they reach, and their elements read in that order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["gather", "is_contiguous", "read_strided", "span"]

#: What is read at once may have so many times the elements that are needed, or this number of them.
_MOST_GAPS, _SMALL = 4, 1024

#: ``read(first, elements)`` fills an array with elements of a file from element `first` on.
ReadElements: TypeAlias = "Callable[[int, npt.NDArray[Any]], None]"


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


def gather(
    read: ReadElements, shape: tuple[int, ...], strides: tuple[int, ...], buffer: npt.NDArray[Any], start: int
) -> None:
    """Fill `buffer` (1-D) with elements of an array that cannot be mapped, in C order, from `start` on.

    Reads runs of elements that are near to each other, in ascending order for the most part, and needs the memory of
    the buffer a few times.

    Parameters
    ----------
    read : callable
        Reads elements of the file, counted from the first of the array.
    shape, strides : tuple of int
        Of the array; strides in elements, not negative.
    buffer : numpy.ndarray
    start : int
    """
    if not shape:
        read(0, buffer)
        return
    row = math.prod(shape[1:])
    first, last = start // row, -(-(start + buffer.size) // row)
    rows = np.empty((last - first, *shape[1:]), buffer.dtype)
    if rows.size:
        _gather(read, strides, first * strides[0], rows)
    skipped = start - first * row
    buffer[:] = rows.reshape(-1)[skipped : skipped + buffer.size]


def _gather(read: ReadElements, strides: tuple[int, ...], first: int, result: npt.NDArray[Any]) -> None:
    """Fill `result` with the elements that begin at `first`, axis by axis until they are near to each other."""
    reach = span(result.shape, strides)
    if reach <= max(_MOST_GAPS * result.size, _SMALL):
        run = np.empty(reach, result.dtype)
        read(first, run)
        result[...] = np.lib.stride_tricks.as_strided(run, result.shape, [run.itemsize * step for step in strides])
        return
    axis = max((axis for axis, size in enumerate(result.shape) if size > 1), key=lambda axis: strides[axis])
    rest = strides[:axis] + strides[axis + 1 :]
    moved = np.moveaxis(result, axis, 0)
    for i in range(len(moved)):
        _gather(read, rest, first + i * strides[axis], moved[i, ...])
