"""Quantized blocks of ggml of 32 weights, decoded to float32 with NumPy.

Source: ggml, ggml-common.h (the structures) and ggml-quants.c (the functions ``dequantize_row_*``). Results are the
same to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BLOCKS_OF_32", "BlockType", "Blocks", "Field", "Floats", "iq4_levels", "nibbles", "scale"]

Floats: TypeAlias = "npt.NDArray[np.float32]"
Bytes: TypeAlias = "npt.NDArray[np.uint8]"
Blocks: TypeAlias = "npt.NDArray[Any]"
Field: TypeAlias = tuple[str, str] | tuple[str, str, tuple[int]]

_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class BlockType:
    """One block format of ggml.

    Attributes
    ----------
    name : str
        ggml's name in lower case (``"q5_1"``).
    size : int
        Weights in one block.
    fields : tuple
        The fields of the block, a packed record: name, type as NumPy spells it, and a shape where it is an array.
    decode : callable
        Blocks of that layout, shape (n,), to float32, shape (n, size).
    """

    name: str
    size: int
    fields: tuple[Field, ...]
    decode: Callable[[Blocks], Floats]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return sum(int(kind[-1]) * math.prod(*shape) if shape else int(kind[-1]) for _, kind, *shape in self.fields)

    @cached_property
    def layout(self) -> np.dtype[Any]:
        """NumPy's type of the block."""
        return np.dtype(list(self.fields))


@cache
def iq4_levels() -> Floats:
    """Return the levels of the types iq4_nl and iq4_xs, which are not evenly spaced."""
    return np.array(_IQ4_LEVELS, np.float32)


def nibbles(packed: Bytes) -> Bytes:
    """Return the 4-bit numbers of bytes, shape (..., n), as (..., 2 n): all low halves, then all high halves."""
    return np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=-1)


def scale(blocks: Blocks, field: str) -> Floats:
    """Return a float16 field of each block, as a column of float32."""
    column: Floats = blocks[field].astype(np.float32)[:, None]
    return column


def _numbers(integers: npt.NDArray[Any]) -> Floats:
    return integers.astype(np.float32)


def _five_bits(blocks: Blocks) -> Bytes:
    """Bit i of the word `h` is the fifth bit of element i."""
    # The bytes of a little-endian word, each from its lowest bit up, are the bits of the word in order.
    high = np.unpackbits(np.ascontiguousarray(blocks["h"]).view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    numbers: Bytes = nibbles(blocks["q"]) | (high << np.uint8(4))
    return numbers


# (q - 8) * d
def _decode_q4_0(blocks: Blocks) -> Floats:
    return _numbers(nibbles(blocks["q"]).astype(np.int8) - np.int8(8)) * scale(blocks, "d")


# q * d + m
def _decode_q4_1(blocks: Blocks) -> Floats:
    return _numbers(nibbles(blocks["q"])) * scale(blocks, "d") + scale(blocks, "m")


# (q - 16) * d
def _decode_q5_0(blocks: Blocks) -> Floats:
    return _numbers(_five_bits(blocks).astype(np.int8) - np.int8(16)) * scale(blocks, "d")


# q * d + m
def _decode_q5_1(blocks: Blocks) -> Floats:
    return _numbers(_five_bits(blocks)) * scale(blocks, "d") + scale(blocks, "m")


# q * d
def _decode_q8_0(blocks: Blocks) -> Floats:
    return _numbers(blocks["q"]) * scale(blocks, "d")


# level[q] * d
def _decode_iq4_nl(blocks: Blocks) -> Floats:
    return iq4_levels()[nibbles(blocks["q"])] * scale(blocks, "d")


_D, _M, _HIGH, _NIBBLES, _BYTES = ("d", "<f2"), ("m", "<f2"), ("h", "<u4"), ("q", "u1", (16,)), ("q", "i1", (32,))

BLOCKS_OF_32 = (
    BlockType("q4_0", 32, (_D, _NIBBLES), _decode_q4_0),
    BlockType("q4_1", 32, (_D, _M, _NIBBLES), _decode_q4_1),
    BlockType("q5_0", 32, (_D, _HIGH, _NIBBLES), _decode_q5_0),
    BlockType("q5_1", 32, (_D, _M, _HIGH, _NIBBLES), _decode_q5_1),
    BlockType("q8_0", 32, (_D, _BYTES), _decode_q8_0),
    BlockType("iq4_nl", 32, (_D, _NIBBLES), _decode_iq4_nl),
)
