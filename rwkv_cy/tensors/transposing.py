"""Reading matrices in the other orientation, strip by strip, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["STRIP_BYTES", "TransposedReader", "read_columns", "strip_columns", "transposed_columns"]

#: Bytes that are transposed at a time. Each strip costs one read per row of the array, so that strips are large.
STRIP_BYTES = 16 << 20


def read_columns(source: ParameterSource, info: TensorInfo, first: int, count: int) -> npt.NDArray[Any]:
    """Read columns of the array that stores a matrix.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it; of a floating point type.
    first, count : int
        Columns of the array: columns of the matrix, or its rows if it is stored transposed.

    Returns
    -------
    numpy.ndarray
        Shape (count, rows of the array): each column is a row of the result.
    """
    from rwkv_cy.kernels.matrix import transposed

    rows = info.array_shape[0]
    strip = read_buffer(rows * count, info.codec.array_dtype).reshape(rows, count)
    _read_strip(source, info, first, strip)
    return transposed(strip)


def transposed_columns(strip: npt.NDArray[Any], begin: int, first: int, count: int) -> npt.NDArray[Any]:
    """Return columns ``first .. first + count`` of an array, each as a row, of a strip of it that begins at `begin`."""
    from rwkv_cy.kernels.matrix import transposed

    result = read_buffer(count * strip.shape[0], strip.dtype).reshape(count, strip.shape[0])
    transposed(strip, first - begin, result)
    return result


def _read_strip(source: ParameterSource, info: TensorInfo, first: int, strip: npt.NDArray[Any]) -> None:
    """Fill `strip`, shape (rows of the array, count), with columns of the array from `first` on."""
    rows, columns = info.array_shape
    if strip.shape[1] == columns:
        source.read_into(info.name, strip.reshape(-1))
        return
    for row in range(rows):
        source.read_into(info.name, strip[row], row * columns + first)


def strip_columns(info: TensorInfo) -> int:
    """Return the number of columns of the array in a strip, at least one."""
    rows, columns = info.array_shape
    return max(1, min(columns, STRIP_BYTES // (rows * info.codec.array_dtype.itemsize)))


class TransposedReader:
    """Reads elements of transposed arrays, fastest in ascending order; it caches the last strip.

    Two threads must not use one at once.

    Parameters
    ----------
    source : ParameterSource
    """

    def __init__(self, source: ParameterSource) -> None:
        self._source = source
        self._memory = np.empty(0, np.uint8)  # reused for every strip: new memory costs as much as the reads
        self._info: TensorInfo | None = None
        self._first = 0  # column of the array that the strip begins with
        self._strip: npt.NDArray[Any] = np.empty((0, 0))

    def strip(self, info: TensorInfo, column: int, least: int) -> tuple[npt.NDArray[Any], int]:
        """Return columns of the array that stores a matrix, as many as a strip has.

        Parameters
        ----------
        info : TensorInfo
            The matrix, as the source describes it; of a floating point type.
        column : int
            The first column that is needed.
        least : int
            How many are needed; fewer where the array ends before.

        Returns
        -------
        strip : numpy.ndarray
            Shape (rows of the array, columns); valid until the next call of a method.
        begin : int
            The first column in it.
        """
        needed = min(column + least, info.array_shape[1])
        if info != self._info or column < self._first or needed > self._first + self._strip.shape[1]:
            self._read(info, column, least)
        return self._strip, self._first

    def read_into(self, info: TensorInfo, buffer: npt.NDArray[Any], start: int) -> None:
        """Fill `buffer` (1-D) with elements of the transpose of the array that stores a matrix, in C order.

        Parameters
        ----------
        info : TensorInfo
            The matrix, as the source describes it; of a floating point type.
        buffer : numpy.ndarray
            Of the array's dtype.
        start : int
            The first element.
        """
        from rwkv_cy.kernels.matrix import transposed

        width = info.array_shape[0]
        done = 0
        while done < buffer.size:
            column, offset = divmod(start + done, width)
            if info != self._info or not self._first <= column < self._first + self._strip.shape[1]:
                self._read(info, column)
            column -= self._first
            whole = min((buffer.size - done) // width, self._strip.shape[1] - column) if offset == 0 else 0
            if whole:
                # Whole columns are transposed into the buffer, which is in the caches, unlike the strip.
                size = whole * width
                transposed(self._strip, column, buffer[done : done + size].reshape(whole, width))
            else:
                size = min(width - offset, buffer.size - done)
                buffer[done : done + size] = self._strip[offset : offset + size, column]
            done += size

    def _read(self, info: TensorInfo, column: int, least: int = 1) -> None:
        """Read the strip of a matrix from `column` of its array on, of at least so many columns if there are."""
        rows, columns = info.array_shape
        shape = rows, min(max(strip_columns(info), least), columns - column)
        dtype = info.codec.array_dtype
        nbytes = shape[0] * shape[1] * dtype.itemsize
        if self._memory.size < nbytes:
            self._strip, self._memory = (
                np.empty((0, 0)),
                np.empty(0, np.uint8),
            )  # freed first, so that only one is allocated at a time
            self._memory = read_buffer(nbytes, np.uint8)
        self._info = None  # invalid until the strip is complete
        self._strip = self._memory[:nbytes].view(dtype).reshape(shape)
        _read_strip(self._source, info, column, self._strip)
        self._info, self._first = info, column
