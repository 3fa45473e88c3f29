"""Tensors read block by block: bounded memory whatever their size, and a count of what is not a number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import MATRIX_TYPES, PACKED, QUANTIZED_TYPES, array_dtype, widen
from rwkv_cy.tensors.groups import read_rows, rows_at_once
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = [
    "BLOCK_SIZE",
    "NonFinite",
    "TensorStatistics",
    "count_nonfinite",
    "measure_tensor",
    "number_type",
    "read_blocks",
]

#: Elements in a block: 1 MiB of float32, which stays in the processor's caches from one pass to the next.
BLOCK_SIZE = 1 << 18


@dataclass(frozen=True)
class _Bits:
    """Where the exponent of a floating point type stands in its bits."""

    unsigned: np.dtype[Any]
    magnitude: int  # every bit but the sign
    infinity: int  # a magnitude above it is NaN


_BITS = {
    "f64": _Bits(np.dtype("<u8"), 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "f32": _Bits(np.dtype("<u4"), 0x7FFF_FFFF, 0x7F80_0000),
    "f16": _Bits(np.dtype("<u2"), 0x7FFF, 0x7C00),
    "bf16": _Bits(np.dtype("<u2"), 0x7FFF, 0x7F80),
}


@dataclass(frozen=True)
class NonFinite:
    """How many elements are NaN and how many are infinite.

    Attributes
    ----------
    nan : int
        Elements that are not a number.
    inf : int
        Elements that are plus or minus infinity.
    """

    nan: int = 0
    inf: int = 0

    def __add__(self, other: NonFinite) -> NonFinite:
        return NonFinite(self.nan + other.nan, self.inf + other.inf)

    def __bool__(self) -> bool:
        return bool(self.nan or self.inf)


def count_nonfinite(block: npt.NDArray[Any], dtype: str) -> NonFinite:
    """Count the NaN and the infinities of an array stored as `dtype`.

    Works on the bits: one pass without branches over an array of finite numbers, at the speed of memory for every
    type, where ``numpy.isfinite`` is 25 times slower in float16 and does not know bfloat16.

    Parameters
    ----------
    block : ndarray
        Contiguous, of the array dtype of `dtype`.
    dtype : str
        Storage type.

    Returns
    -------
    NonFinite
    """
    bits = _BITS[dtype]
    magnitude = block.view(bits.unsigned) & bits.unsigned.type(bits.magnitude)
    if block.size == 0 or magnitude.max() < bits.infinity:
        return NonFinite()
    infinite = int(np.count_nonzero(magnitude == bits.infinity))
    return NonFinite(nan=int(np.count_nonzero(magnitude >= bits.infinity)) - infinite, inf=infinite)


def number_type(info: TensorInfo) -> str:
    """Return the storage type of what :func:`read_blocks` yields, which decodes: f32 of q8, q6 and q4, bf16 of bf12."""
    if info.dtype == PACKED:
        return "bf16"
    return "f32" if info.dtype in QUANTIZED_TYPES else info.dtype


def read_blocks(source: ParameterSource, info: TensorInfo, block_size: int = BLOCK_SIZE) -> Iterator[npt.NDArray[Any]]:
    """Yield the elements of a tensor in the order in which they lie, at most `block_size` at a time.

    Each array is 1-D, of the array dtype of ``number_type(info)``, and valid until the next one is asked for: all of
    them may be the same memory. Quantized and packed matrices are decoded by groups of sixteen rows, which may be more.

    Raises
    ------
    FormatError, StorageError
        As the source's ``read_into`` does.
    """
    if info.dtype in MATRIX_TYPES:
        rows, columns = info.shape
        step = rows_at_once(columns, block_size)
        for first in range(0, rows, step):
            yield read_rows(source, info, first, min(step, rows - first)).reshape(-1)
        return
    buffer = np.empty(min(block_size, info.size), array_dtype(info.dtype))
    for start in range(0, info.size, block_size):
        block = buffer[: min(block_size, info.size - start)]
        source.read_into(info.name, block, start)
        yield block


@dataclass(frozen=True)
class TensorStatistics:
    """What the numbers of a tensor are like; those that are not finite are counted and left out of the rest.

    Attributes
    ----------
    minimum, maximum, mean, std : float or None
        Of the finite elements; None where there is none, and where a result is beyond float64. `std` is the
        population's.
    zeros, nan, inf : int
        Elements that are exactly zero, not a number, infinite.
    """

    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    inf: int


def measure_tensor(source: ParameterSource, info: TensorInfo, block_size: int = BLOCK_SIZE) -> TensorStatistics:
    """Read a tensor once and describe its numbers, in float64 and with memory for a block.

    Mean and variance are merged block by block (Chan, Golub and LeVeque 1979, equations 2.1), which loses no
    digits to a mean that is large beside the spread.
    """
    counts = NonFinite()
    n = zeros = 0
    mean = squares = 0.0
    low, high = np.inf, -np.inf
    for block in read_blocks(source, info, block_size):
        found = count_nonfinite(block, number_type(info))
        counts += found
        values = widen(block, number_type(info), "f64")
        if found:
            values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        zeros += values.size - int(np.count_nonzero(values))
        with np.errstate(over="ignore", invalid="ignore"):
            block_mean = float(values.mean())
        # mean = mean_a + d·m/(n+m);  squares = squares_a + squares_b + d²·n·m/(n+m),  d = mean_b - mean_a
        delta, total = block_mean - mean, n + values.size
        with np.errstate(over="ignore", invalid="ignore"):
            squares += float(np.square(values - block_mean).sum()) + delta * delta * (n * values.size / total)
        mean += delta * (values.size / total)
        n = total
    if n == 0:
        return TensorStatistics(None, None, None, None, zeros, counts.nan, counts.inf)
    deviation = math.sqrt(squares / n) if math.isfinite(squares) else None
    return TensorStatistics(low, high, mean if math.isfinite(mean) else None, deviation, zeros, counts.nan, counts.inf)
