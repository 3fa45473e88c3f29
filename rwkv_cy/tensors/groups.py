"""Matrices in blocks, in parts of whole groups of rows: read from a source as numbers, and packed from numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import GROUP_ROWS, PACKED, QUANTIZED_TYPES
from rwkv_cy.errors import NumericalError
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.tensors.unpacking import read_packed_rows

__all__ = ["group_bytes", "pack_rows", "read_numbers", "read_rows", "rows_at_once"]


def group_bytes(info: TensorInfo) -> int:
    """Return the bytes of a group: 16 rows of a quantized matrix."""
    _, blocks, block_bytes = info.array_shape
    return blocks * block_bytes


def rows_at_once(columns: int, size: int) -> int:
    """Return how many rows make about `size` elements in whole groups: one group at least."""
    return max(1, size // (GROUP_ROWS * columns)) * GROUP_ROWS


def read_rows(source: ParameterSource, info: TensorInfo, first: int, count: int) -> npt.NDArray[Any]:
    """Read rows of a quantized or packed matrix, and decode them.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it.
    first, count : int
        Rows; `first` begins a group, and the rows end with a group or with the matrix.

    Returns
    -------
    numpy.ndarray
        Shape (count, columns), float32; of a bf12 matrix bfloat16 as uint16.

    Raises
    ------
    FormatError
        If a bf12 matrix contradicts itself.
    """
    if info.dtype == PACKED:
        return read_packed_rows(source, info, first, count)
    part = replace(info, shape=(count, info.shape[1]))
    packed = np.empty(part.array_shape, np.uint8)
    source.read_into(info.name, packed.reshape(-1), first // GROUP_ROWS * group_bytes(info))
    return unpack(packed, info.dtype, part.shape)


def read_numbers(source: ParameterSource, info: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
    """Return `count` weights of a quantized or packed matrix from `start` on, in C order: 1-D, as of `read_rows`.

    Needs memory for them and for two groups.
    """
    rows, columns = info.shape
    group = GROUP_ROWS * columns
    first = start // group * GROUP_ROWS
    last = min(-(-(start + count) // group) * GROUP_ROWS, rows)
    offset = start - first * columns
    return read_rows(source, info, first, last - first).reshape(-1)[offset : offset + count]


def pack_rows(weights: npt.NDArray[np.float32], dtype: str, where: str) -> npt.NDArray[Any]:
    """Quantize whole groups of a matrix.

    Parameters
    ----------
    weights : numpy.ndarray
        Shape (rows, columns), float32.
    dtype : {"q8", "q6", "q4"}
    where : str
        File and tensor, for messages.

    Raises
    ------
    NumericalError
        If a weight is NaN or infinite, or too large for the steps, which are float16.
    """
    if not np.isfinite(weights).all():
        raise NumericalError(
            f"{where}: expected finite weights to quantize to {dtype}, got NaN or infinity; "
            "convert to another dtype, or get an undamaged checkpoint"
        )
    packed = pack(weights, dtype)
    head = QUANTIZED_TYPES[dtype].head_bytes
    if not np.isfinite(packed[:, :, :head].view("<f2")).all():
        raise NumericalError(
            f"{where}: expected weights that {dtype} can hold, got up to {np.abs(weights).max():.3g}; "
            "convert to another dtype"
        )
    return packed
