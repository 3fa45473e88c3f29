"""Matrices that lie transposed: read from any source in the other order, strip by strip in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import array_dtype
from rwkv_cy.kernels.matrix import transposed
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["STRIP_BYTES", "TurnedReader", "read_canonical", "read_matrix_rows", "read_turned", "strip_rows"]

#: What is transposed at a time, in bytes. A strip costs a read for each row of the array, so it is not small.
STRIP_BYTES = 16 << 20


def read_turned(source: ParameterSource, info: TensorInfo, first: int, count: int) -> npt.NDArray[Any]:
    """Read columns of the array that holds a matrix, one after the other.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it; not quantized.
    first, count : int
        Columns of the array: columns of the matrix, or its rows if it lies transposed.

    Returns
    -------
    numpy.ndarray
        Shape (count, rows of the array), of the array dtype of ``info.dtype``.
    """
    strip = np.empty((info.array_shape[0], count), array_dtype(info.dtype))
    _read_strip(source, info, first, strip)
    return transposed(strip)


def _read_strip(source: ParameterSource, info: TensorInfo, first: int, strip: npt.NDArray[Any]) -> None:
    """Fill `strip`, shape (rows of the array, count), with columns of the array from `first` on."""
    rows, columns = info.array_shape
    if strip.shape[1] == columns:
        source.read_into(info.name, strip.reshape(-1))
        return
    for row in range(rows):
        source.read_into(info.name, strip[row], row * columns + first)


def strip_rows(info: TensorInfo) -> int:
    """Return how many columns of the array make a strip: one at least."""
    rows, columns = info.array_shape
    return max(1, min(columns, STRIP_BYTES // (rows * array_dtype(info.dtype).itemsize)))


def read_matrix_rows(source: ParameterSource, info: TensorInfo, first: int, count: int) -> npt.NDArray[Any]:
    """Read rows of a matrix that is not quantized, whichever way it lies: shape (count, columns)."""
    if info.transposed:
        return read_turned(source, info, first, count)
    block = np.empty((count, info.shape[1]), array_dtype(info.dtype))
    source.read_into(info.name, block.reshape(-1), first * info.shape[1])
    return block


def read_canonical(source: ParameterSource, info: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
    """Return `count` elements of a transposed matrix from `start` on, in C order of (out, in): 1-D."""
    columns = info.shape[1]
    first, last = start // columns, -(-(start + count) // columns)
    offset = start - first * columns
    return read_turned(source, info, first, last - first).reshape(-1)[offset : offset + count]


class TurnedReader:
    """Elements of transposes, read from the first to the last; keeps the strip that was read last.

    Parameters
    ----------
    source : ParameterSource
    """

    def __init__(self, source: ParameterSource) -> None:
        self._source = source
        self._memory = np.empty(0, np.uint8)  # of every strip: new memory costs as much as the reading
        self._info: TensorInfo | None = None
        self._first = 0  # column of the array that the strip begins with
        self._strip: npt.NDArray[Any] = np.empty((0, 0))

    def read_into(self, info: TensorInfo, buffer: npt.NDArray[Any], start: int) -> None:
        """Fill `buffer` (1-D) with the elements from `start` on of a matrix, in C order of the array's transpose."""
        width = info.array_shape[0]
        done = 0
        while done < buffer.size:
            column, offset = divmod(start + done, width)
            if info != self._info or not self._first <= column < self._first + self._strip.shape[1]:
                self._read(info, column)
            column -= self._first
            whole = min((buffer.size - done) // width, self._strip.shape[1] - column) if offset == 0 else 0
            if whole:
                # Whole columns go where they are wanted, which is in the caches: the strip is not.
                size = whole * width
                transposed(self._strip, column, buffer[done : done + size].reshape(whole, width))
            else:
                size = min(width - offset, buffer.size - done)
                buffer[done : done + size] = self._strip[offset : offset + size, column]
            done += size

    def _read(self, info: TensorInfo, column: int) -> None:
        """Read the strip of a matrix from `column` of its array on."""
        rows, columns = info.array_shape
        shape = rows, min(strip_rows(info), columns - column)
        dtype = array_dtype(info.dtype)
        nbytes = shape[0] * shape[1] * dtype.itemsize
        if self._memory.size < nbytes:
            self._strip, self._memory = np.empty((0, 0)), np.empty(0, np.uint8)  # not both at once
            self._memory = np.empty(nbytes, np.uint8)
        self._info = None  # until it is all there
        self._strip = self._memory[:nbytes].view(dtype).reshape(shape)
        _read_strip(self._source, info, column, self._strip)
        self._info, self._first = info, column
