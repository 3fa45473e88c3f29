"""Quantized blocks of ggml: 32 weights in a block, decoded to float32 with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_SIZE", "BLOCK_TYPES", "BlockType"]

#: Weights in one block.
BLOCK_SIZE = 32

Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[Any]


@dataclass(frozen=True)
class BlockType:
    """One block format of ggml, of 32 weights.

    Attributes
    ----------
    name : str
        ggml's name in lower case (``"q5_1"``).
    layout : numpy.dtype
        The block as a packed record.
    decode : callable
        Blocks of that layout, shape (n,), to float32, shape (n, 32).
    """

    name: str
    layout: np.dtype[Any]
    decode: Callable[[Blocks], Floats]


def _nibbles(blocks: Blocks) -> npt.NDArray[np.uint8]:
    """Low halves of the 16 bytes are elements 0 to 15, high halves 16 to 31."""
    packed: npt.NDArray[np.uint8] = blocks["q"]
    return np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=1)


def _five_bits(blocks: Blocks) -> npt.NDArray[np.uint8]:
    """Bit i of the word `h` is the fifth bit of element i."""
    # The bytes of a little-endian word, each from its lowest bit up, are the bits of the word in order.
    high = np.unpackbits(np.ascontiguousarray(blocks["h"]).view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    numbers: npt.NDArray[np.uint8] = _nibbles(blocks) | (high << np.uint8(4))
    return numbers


def _numbers(integers: npt.NDArray[Any]) -> Floats:
    return integers.astype(np.float32)


def _scale(blocks: Blocks, field: str) -> Floats:
    """One value for each block, as a column."""
    return _numbers(blocks[field])[:, None]


# (q - 8) * d
def _decode_q4_0(blocks: Blocks) -> Floats:
    return _numbers(_nibbles(blocks).astype(np.int8) - np.int8(8)) * _scale(blocks, "d")


# q * d + m
def _decode_q4_1(blocks: Blocks) -> Floats:
    return _numbers(_nibbles(blocks)) * _scale(blocks, "d") + _scale(blocks, "m")


# (q - 16) * d
def _decode_q5_0(blocks: Blocks) -> Floats:
    return _numbers(_five_bits(blocks).astype(np.int8) - np.int8(16)) * _scale(blocks, "d")


# q * d + m
def _decode_q5_1(blocks: Blocks) -> Floats:
    return _numbers(_five_bits(blocks)) * _scale(blocks, "d") + _scale(blocks, "m")


# q * d
def _decode_q8_0(blocks: Blocks) -> Floats:
    return _numbers(blocks["q"]) * _scale(blocks, "d")


_D, _M, _HIGH, _NIBBLES, _BYTES = ("d", "<f2"), ("m", "<f2"), ("h", "<u4"), ("q", "u1", (16,)), ("q", "i1", (32,))

#: By name. Source: ggml, ggml-quants (block_q4_0 to block_q8_0).
BLOCK_TYPES: dict[str, BlockType] = {
    block.name: block
    for block in (
        BlockType("q4_0", np.dtype([_D, _NIBBLES]), _decode_q4_0),
        BlockType("q4_1", np.dtype([_D, _M, _NIBBLES]), _decode_q4_1),
        BlockType("q5_0", np.dtype([_D, _HIGH, _NIBBLES]), _decode_q5_0),
        BlockType("q5_1", np.dtype([_D, _M, _HIGH, _NIBBLES]), _decode_q5_1),
        BlockType("q8_0", np.dtype([_D, _BYTES]), _decode_q8_0),
    )
}
