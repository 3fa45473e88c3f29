"""Matrices that lie transposed: read from any source in the other order, strip by strip in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import array_dtype
from rwkv_cy.kernels.matrix import transposed
from rwkv_cy.parameters import ParameterSource, TensorInfo

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
    rows, columns = info.array_shape
    strip = np.empty((rows, count), array_dtype(info.dtype))
    if count == columns:
        source.read_into(info.name, strip.reshape(-1))
    else:
        for row in range(rows):
            source.read_into(info.name, strip[row], row * columns + first)
    return transposed(strip)


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
    """Elements of the transpose of an array, read from the first to the last; keeps the strip that was read last.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        A matrix of the source, not quantized.
    """

    def __init__(self, source: ParameterSource, info: TensorInfo) -> None:
        self.info = info
        self._source = source
        self._first = 0
        self._strip = np.empty(0, array_dtype(info.dtype))

    def read_into(self, buffer: npt.NDArray[Any], start: int) -> None:
        """Fill `buffer` (1-D) with the elements from `start` on, in C order of the transpose."""
        width, depth = self.info.array_shape
        done = 0
        while done < buffer.size:
            at = start + done - self._first * width
            if not 0 <= at < self._strip.size:
                self._strip = np.empty(0, self._strip.dtype)  # let go of it before the next one comes
                self._first = (start + done) // width
                count = min(strip_rows(self.info), depth - self._first)
                self._strip = read_turned(self._source, self.info, self._first, count).reshape(-1)
                at = start + done - self._first * width
            part = self._strip[at : at + buffer.size - done]
            buffer[done : done + part.size] = part
            done += part.size
