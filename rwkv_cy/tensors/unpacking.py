"""Packed bfloat16 matrices in a source: rows read and unpacked, lists of escapes checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import WEIGHTS_PER_ESCAPE, max_escapes, packed_nbytes
from rwkv_cy.errors import FormatError, KernelError
from rwkv_cy.kernels.bf12 import PACKED_ROWS, TABLE_SIZE, group_nbytes, unpack_rows
from rwkv_cy.kernels.packed import HEAD_BYTES, escape_places, put_escapes, stored_escapes
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["check_packed", "read_packed_rows"]

_MEND = "convert the model again"
#: Rows whose lists are checked at a time.
_ROWS = 1 << 14


def read_packed_rows(source: ParameterSource, info: TensorInfo, first: int, count: int) -> npt.NDArray[np.uint16]:
    """Read rows of a packed matrix, and unpack them.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it.
    first, count : int
        Rows; `first` is a multiple of four.

    Returns
    -------
    numpy.ndarray
        Shape (count, columns), bfloat16 as uint16.

    Raises
    ------
    FormatError
        If the table or the lists of escapes are not what a writer can have written, or more weights escape than may.
    """
    columns = info.shape[1]
    table, escapes = _head(source, info)
    nbytes = -(-count // PACKED_ROWS) * group_nbytes(columns)
    chunks = _read(source, info, HEAD_BYTES + first // PACKED_ROWS * group_nbytes(columns), nbytes)
    words = unpack_rows(chunks, table, (count, columns))
    try:
        put_escapes(words, *_lists(source, info, first, count, escapes))
    except KernelError as error:
        raise FormatError(f"{source.path}: {info.name}: {error}; {_MEND}") from error
    return words


def check_packed(source: ParameterSource, info: TensorInfo) -> None:
    """Raise FormatError unless table, number and lists of escapes of a packed matrix are sound; reads those only."""
    rows, columns = info.shape
    _, escapes = _head(source, info)
    for first in range(0, rows, _ROWS):
        count = min(_ROWS, rows - first)
        try:
            escape_places(*_lists(source, info, first, count, escapes), columns)
        except KernelError as error:
            raise FormatError(f"{source.path}: {info.name}: {error}; {_MEND}") from error


def _head(source: ParameterSource, info: TensorInfo) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the table and the number of escapes, both checked."""
    head = _read(source, info, 0, HEAD_BYTES)
    table, escapes = head[:TABLE_SIZE], stored_escapes(head)
    if (np.diff(table.astype(np.int64)) <= 0).any():
        raise FormatError(
            f"{source.path}: {info.name}: expected sixteen exponents in their order, got {table.tolist()}; {_MEND}"
        )
    expected = packed_nbytes(info.shape, escapes)
    if expected != info.packed_nbytes:
        raise FormatError(
            f"{source.path}: {info.name}: expected {expected} bytes for {escapes} escapes, got {info.packed_nbytes}; "
            f"{_MEND}"
        )
    # Each escape costs a product more than many weights do: a file full of them would keep every token waiting.
    most = max_escapes(info.shape)
    if escapes > most:
        raise FormatError(
            f"{source.path}: {info.name}: expected at most {most} escapes, one for {WEIGHTS_PER_ESCAPE:,} weights, "
            f"got {escapes}; {_MEND}"
        )
    return table, escapes


def _lists(
    source: ParameterSource, info: TensorInfo, first: int, count: int, escapes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Return where the lists of rows begin and end, counted from the first one's, and what is in them."""
    rows, columns = info.shape
    at = HEAD_BYTES + -(-rows // PACKED_ROWS) * group_nbytes(columns)
    starts = _read(source, info, at + 4 * first, 4 * (count + 1)).view("<u4").astype(np.int64)
    begin, end = int(starts[0]), int(starts[-1])
    ends_meet = (first > 0 or begin == 0) and (first + count < rows or end == escapes)
    if not ends_meet or not begin <= end <= escapes:
        raise FormatError(
            f"{source.path}: {info.name}: expected lists of {escapes} escapes one after the other, got others; {_MEND}"
        )
    found = _read(source, info, at + 4 * (rows + 1 + begin), 4 * (end - begin))
    return starts - begin, found.view("<u2").reshape(-1, 2)


def _read(source: ParameterSource, info: TensorInfo, start: int, count: int) -> npt.NDArray[np.uint8]:
    buffer = np.empty(count, np.uint8)
    source.read_into(info.name, buffer, start)
    return buffer
