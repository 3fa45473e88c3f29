"""Quantization to ggml's blocks of 32 weights with NumPy, bit-equal to ggml's reference quantizers.

Source: github.com/ggml-org/ggml, src/ggml-quants.c (quantize_row_q4_0_ref to quantize_row_q8_0_ref). As there, every
operation is one of float32, and is rounded by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import NumericalError
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode_superblocks import SUPERBLOCK_ENCODERS

__all__ = ["ENCODERS", "encode_blocks"]

Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[Any]
Encoder = Callable[[Floats], dict[str, npt.NDArray[Any]]]

_SIZE = 32
#: Squares of larger numbers are infinite; scales of float16 end far below.
_SQUARED = np.float32(1e18)
_HALF = np.float32(0.5)


def encode_blocks(name: str, numbers: Floats, where: str) -> Blocks:
    """Quantize weights.

    Parameters
    ----------
    name : str
        A key of ENCODERS, or of SUPERBLOCK_ENCODERS.
    numbers : numpy.ndarray
        float32 of shape (n, 32) or (n, 256), a block in a row.
    where : str
        File and tensor, for messages.

    Returns
    -------
    numpy.ndarray
        Shape (n,), of the layout of the block type.

    Raises
    ------
    NumericalError
        If a weight is NaN or infinite, or too large for the float16 scales.
    """
    if not np.isfinite(numbers).all():
        raise NumericalError(
            f"{where}: expected finite weights to quantize to {name}, got NaN or infinity; choose a floating point "
            "type, or get an undamaged checkpoint"
        )
    blocks = np.empty(len(numbers), BLOCK_TYPES[name].layout)
    with np.errstate(all="ignore"):
        encoder = ENCODERS.get(name) or SUPERBLOCK_ENCODERS[name]
        for field, values in encoder(numbers).items():
            blocks[field] = values
    scales = [blocks[field] for field in ("d", "m", "dmin") if field in (blocks.dtype.names or ())]
    if not all(np.isfinite(scale).all() for scale in scales) or np.abs(numbers).max(initial=0) > _SQUARED:
        raise NumericalError(
            f"{where}: expected weights that {name} can hold, got up to {np.abs(numbers).max():.3g}; "
            "choose a floating point type"
        )
    return blocks


def _inverse(d: Floats) -> Floats:
    """Return 1 / d, and 0 where there is none: there the scale is 0 in float16 too."""
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _packed(levels: npt.NDArray[np.uint8], bits: int) -> dict[str, npt.NDArray[Any]]:
    """Elements 0 to 15 are low halves of the 16 bytes, 16 to 31 high halves; fifth bits are those of a word."""
    half = _SIZE // 2
    fields: dict[str, npt.NDArray[Any]] = {
        "q": (levels[:, :half] & np.uint8(15)) | (levels[:, half:] << np.uint8(4)),
    }
    if bits == 5:
        fields["h"] = np.packbits(levels >> np.uint8(4), axis=1, bitorder="little").view("<u4")[:, 0]
    return fields


# d = (the weight of largest magnitude) / -2^(bits - 1); q = min(floor(x / d + 2^(bits - 1) + 1/2), 2^bits - 1)
def _symmetric(numbers: Floats, bits: int) -> dict[str, npt.NDArray[Any]]:
    zero = np.float32(1 << (bits - 1))
    largest = np.take_along_axis(numbers, np.abs(numbers).argmax(axis=1)[:, None], axis=1)
    largest += np.float32(0)  # -0 becomes 0
    d = largest / -zero
    scaled = numbers * _inverse(d)
    scaled += zero + _HALF
    levels = np.minimum(scaled.astype(np.uint8), np.uint8((1 << bits) - 1))
    return {"d": d[:, 0], **_packed(levels, bits)}


# m = smallest weight; d = (largest - m) / (2^bits - 1); q = min(floor((x - m) / d + 1/2), 2^bits - 1)
def _affine(numbers: Floats, bits: int) -> dict[str, npt.NDArray[Any]]:
    last = (1 << bits) - 1
    # The first of several zeros gives the sign.
    m = np.take_along_axis(numbers, numbers.argmin(axis=1)[:, None], axis=1)
    d = (numbers.max(axis=1)[:, None] - m) / np.float32(last)
    d += np.float32(0)  # -0 becomes 0
    scaled = numbers - m
    scaled *= _inverse(d)
    scaled += _HALF
    levels = np.minimum(scaled.astype(np.uint8), np.uint8(last))
    return {"d": d[:, 0], "m": m[:, 0], **_packed(levels, bits)}


# d = (largest magnitude) / 127; q = x / d to nearest, halves away from zero
def _eight_bits(numbers: Floats) -> dict[str, npt.NDArray[Any]]:
    d = np.abs(numbers).max(axis=1)[:, None] / np.float32(127)
    scaled = numbers * _inverse(d)
    whole = np.trunc(scaled)
    whole += np.trunc(2 * (scaled - whole))
    return {"d": d[:, 0], "q": whole.astype(np.int8)}


#: By name of the block type of 32 weights: float32 of shape (n, 32) to the fields of the blocks.
ENCODERS: dict[str, Encoder] = {
    "q4_0": partial(_symmetric, bits=4),
    "q4_1": partial(_affine, bits=4),
    "q5_0": partial(_symmetric, bits=5),
    "q5_1": partial(_affine, bits=5),
    "q8_0": _eight_bits,
}
