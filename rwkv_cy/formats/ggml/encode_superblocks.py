"""Quantization to ggml's blocks of 256 weights q4_K, q5_K and q6_K with NumPy: a search for the best scales.

The scales of the 8 or 16 sub-blocks of a block minimise a weighted square error, over the same candidates as in ggml
(ggml-quants.c, ``quantize_row_q4_K_ref`` to ``quantize_row_q6_K_ref``). Sums are added in another order than there, so
that some blocks differ; errors are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SUPERBLOCK_ENCODERS"]

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]
Fields = dict[str, npt.NDArray[Any]]

_SIZE = 256
#: Sub-blocks of an affine type, and of q6_K.
_AFFINE, _SIGNED = 8, 16
#: Largest scale and minimum of 6 bits.
_LARGEST_SCALE = np.float32(63)


def _inverse(numbers: Floats) -> Floats:
    """Return 1 / x, and 0 for 0."""
    return np.divide(np.float32(1), numbers, out=np.zeros_like(numbers), where=numbers != 0)


def _sums(numbers: Floats) -> Floats:
    sums: Floats = numbers.sum(axis=-1, keepdims=True)
    return sums


def _nearest(numbers: Floats, low: int, high: int) -> Floats:
    return np.clip(np.rint(numbers), np.float32(low), np.float32(high))


# x = scale * q - minimum, with minimum >= 0; the weights of the errors grow with the numbers.
def _fit_affine(x: Floats, last: int, shifts: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return scale and minimum of each sub-block, as columns.

    Parameters
    ----------
    x : numpy.ndarray
        Shape (n, numbers of a sub-block).
    last : int
        The last level.
    shifts : numpy.ndarray
        What is added to `last` for each candidate of the number of levels between the smallest and largest number.
    """
    weights = np.abs(x) + np.sqrt(_sums(x * x) / np.float32(x.shape[1]))
    low = np.minimum(x.min(axis=1, keepdims=True), np.float32(0))
    high = x.max(axis=1, keepdims=True)
    total, total_x = _sums(weights), _sums(weights * x)
    scale, offset = (high - low) / np.float32(last), low
    levels = _nearest((x - low) * _inverse(scale), 0, last)
    best = _sums(weights * (scale * levels + offset - x) ** 2)
    for shift in shifts:
        levels = _nearest((x - offset) * ((np.float32(last) + shift) * _inverse(high - offset)), 0, last)
        weighted = weights * levels
        sum_l, sum_l2, sum_xl = _sums(weighted), _sums(weighted * levels), _sums(weighted * x)
        inverse = _inverse(total * sum_l2 - sum_l * sum_l)
        # The least squares for these levels; without an offset where it would be positive.
        new_offset = (sum_l2 * total_x - sum_l * sum_xl) * inverse
        new_scale = (total * sum_xl - total_x * sum_l) * inverse
        positive = new_offset > 0
        new_scale = np.where(positive, sum_xl * _inverse(sum_l2), new_scale)
        new_offset = np.where(positive, np.float32(0), new_offset)
        error = _sums(weights * (new_scale * levels + new_offset - x) ** 2)
        better = (error < best) & (inverse != 0)
        best = np.where(better, error, best)
        scale = np.where(better, new_scale, scale)
        offset = np.where(better, new_offset, offset)
    return scale, -offset


def _six_bits(numbers: Floats) -> tuple[npt.NDArray[np.float16], Levels]:
    """Return numbers that are not negative, shape (n, 8), as a float16 each row and 6 bits each number."""
    largest = numbers.max(axis=1, keepdims=True)
    levels = _nearest(numbers * (_LARGEST_SCALE * _inverse(largest)), 0, 63).astype(np.uint8)
    return (largest[:, 0] / _LARGEST_SCALE).astype(np.float16), levels


def _pack_scales(scales: Levels, minima: Levels) -> Levels:
    """Return 8 scales and 8 minima of 6 bits in 12 bytes, the inverse of what decoding does."""
    two, four, high = np.uint8(2), np.uint8(4), np.uint8(0xC0)
    return np.concatenate(
        (
            scales[:, :4] | ((scales[:, 4:] << two) & high),
            minima[:, :4] | ((minima[:, 4:] << two) & high),
            (scales[:, 4:] & np.uint8(15)) | (minima[:, 4:] << four),
        ),
        axis=1,
    )


def _pack_nibbles(levels: Levels, runs: int) -> Levels:
    """Return levels, shape (n, 256), two in a byte: the two halves of each run."""
    in_runs = levels.reshape(len(levels), runs, 2, -1) & np.uint8(15)
    packed: Levels = in_runs[:, :, 0] | (in_runs[:, :, 1] << np.uint8(4))
    return packed.reshape(len(levels), -1)


def _affine(numbers: Floats, bits: int, shifts: npt.NDArray[np.float32]) -> Fields:
    count, last = len(numbers), (1 << bits) - 1
    x = numbers.reshape(count * _AFFINE, -1)
    scale, minimum = (column.reshape(count, _AFFINE) for column in _fit_affine(x, last, shifts))
    d, scales = _six_bits(scale)
    dmin, minima = _six_bits(minimum)
    step = (d.astype(np.float32)[:, None] * scales).reshape(-1, 1)
    least = (dmin.astype(np.float32)[:, None] * minima).reshape(-1, 1)
    levels = _nearest((x + least) * _inverse(step), 0, last).astype(np.uint8).reshape(count, _SIZE)
    fields: Fields = {"d": d, "dmin": dmin, "scales": _pack_scales(scales, minima), "q": _pack_nibbles(levels, 4)}
    if bits == 5:
        # Bit s of byte i is the fifth bit of number i of sub-block s.
        high = (levels >> np.uint8(4)).reshape(count, _AFFINE, -1)
        fields["h"] = np.packbits(high, axis=1, bitorder="little")[:, 0]
    return fields


# x = scale * q, with q from -32 to 31; the weights of the errors are the squares of the numbers.
def _fit_signed(x: Floats) -> Floats:
    """Return the scale of each sub-block, as a column."""
    furthest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    inverse = _inverse(furthest)
    weights = x * x
    scale, best = np.zeros_like(furthest), np.full_like(furthest, -1)
    for tenths in (0, *range(-9, 0), *range(1, 10)):
        levels = _nearest(x * (inverse * np.float32(-(32 + 0.1 * tenths))), -32, 31)
        weighted = weights * levels
        sum_xl, sum_l2 = _sums(weighted * x), _sums(weighted * levels)
        new_scale = sum_xl * _inverse(sum_l2)
        # The error is less by so much than that of zeros.
        gain = new_scale * sum_xl
        better = gain > best
        best = np.where(better, gain, best)
        scale = np.where(better, new_scale, scale)
    return scale


def _six(numbers: Floats) -> Fields:
    count = len(numbers)
    x = numbers.reshape(count * _SIGNED, -1)
    scale = _fit_signed(x).reshape(count, _SIGNED)
    furthest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1, keepdims=True), axis=1)
    inverse = np.float32(-128) * _inverse(furthest)
    d = _inverse(inverse)[:, 0].astype(np.float16)
    scales = _nearest(scale * inverse, -128, 127).astype(np.int8)
    step = (d.astype(np.float32)[:, None] * scales).reshape(-1, 1)
    levels = (_nearest(x * _inverse(step), -32, 31) + np.float32(32)).astype(np.uint8).reshape(count, _SIZE)
    # Of each half of the block, byte i has two bits of numbers i, 32 + i, 64 + i and 96 + i.
    high = (levels >> np.uint8(4)).reshape(count, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    crumbs = np.bitwise_or.reduce(high, axis=2).reshape(count, -1)
    return {"d": d, "scales": scales, "q": _pack_nibbles(levels, 2), "h": crumbs}


def _shifts(first: float, count: int) -> npt.NDArray[np.float32]:
    return (first + 0.1 * np.arange(count)).astype(np.float32)


#: By name of the block type: float32 of shape (n, 256) to the fields of the blocks.
SUPERBLOCK_ENCODERS: dict[str, Callable[[Floats], Fields]] = {
    "q4_k": partial(_affine, bits=4, shifts=_shifts(-1.0, 21)),
    "q5_k": partial(_affine, bits=5, shifts=_shifts(-0.5, 16)),
    "q6_k": _six,
}
