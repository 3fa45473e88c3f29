"""Quantized blocks of ggml of 256 weights, in 8 or 16 sub-blocks with scales of their own: decoded with NumPy.

Source: ggml, ggml-common.h (the structures) and ggml-quants.c (the functions ``dequantize_row_*``). Results are the
same to the last bit. Encoding them needs a search for the best scales, and is not done here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.formats.ggml.blocks import Blocks, BlockType, Field, Floats, iq4_levels, nibbles, scale

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BLOCKS_OF_256"]

Bytes: TypeAlias = "npt.NDArray[np.uint8]"

_SIZE = 256


def _fields(packed: Bytes, bits: int, runs: int) -> Bytes:
    """Return the fields of so many bits of each byte, in the order in which ggml stores them.

    The bytes, shape (n, count), are taken in `runs` runs. Of each run the lowest fields of all its bytes come first,
    then the next higher ones. The result has the shape (n, count * 8 // bits).
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    in_runs = packed.reshape(len(packed), runs, 1, -1)
    fields: Bytes = (in_runs >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(packed), -1)


def _in_sub_blocks(numbers: npt.NDArray[Any], count: int) -> Floats:
    return numbers.astype(np.float32).reshape(len(numbers), count, -1)


def _whole(numbers: Floats) -> Floats:
    return numbers.reshape(len(numbers), _SIZE)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the 8 scales and the 8 minima of 6 bits each that q4_K and q5_K hold in 12 bytes.

    Bytes 0 to 3 hold the first four scales and 4 to 7 the first four minima, in their low six bits. The low four bits
    of the other scales and minima are the low and high halves of bytes 8 to 11; their high two bits are those of the
    first eight bytes.
    """
    scales, minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low, high = np.uint8(0x3F), np.uint8(0x30)
    return (
        np.concatenate((scales & low, (rest & np.uint8(15)) | ((scales >> np.uint8(2)) & high)), axis=1),
        np.concatenate((minima & low, (rest >> np.uint8(4)) | ((minima >> np.uint8(2)) & high)), axis=1),
    )


# d * s * q - dmin * m, with s and m of four bits for each 16 weights
def _decode_q2_k(blocks: Blocks) -> Floats:
    scales = blocks["scales"]
    d = scale(blocks, "d") * (scales & np.uint8(15)).astype(np.float32)
    m = scale(blocks, "dmin") * (scales >> np.uint8(4)).astype(np.float32)
    return _whole(d[:, :, None] * _in_sub_blocks(_fields(blocks["q"], 2, 2), 16) - m[:, :, None])


# d * (s - 32) * (q - 4), with s of six bits for each 16 weights
def _decode_q3_k(blocks: Blocks) -> Floats:
    packed = blocks["scales"]
    scales = nibbles(packed[:, :8]) | (_fields(packed[:, 8:], 2, 1) << np.uint8(4))
    d = scale(blocks, "d") * (scales.astype(np.int8) - np.int8(32)).astype(np.float32)
    q = _fields(blocks["q"], 2, 2) | (_fields(blocks["h"], 1, 1) << np.uint8(2))
    return _whole(d[:, :, None] * _in_sub_blocks(q.astype(np.int8) - np.int8(4), 16))


def _with_minima(blocks: Blocks, q: Bytes) -> Floats:
    """Return ``d * s * q - dmin * m``, with s and m of six bits for each 32 weights."""
    scales, minima = _six_bit_scales(blocks["scales"])
    d = scale(blocks, "d") * scales.astype(np.float32)
    m = scale(blocks, "dmin") * minima.astype(np.float32)
    return _whole(d[:, :, None] * _in_sub_blocks(q, 8) - m[:, :, None])


def _decode_q4_k(blocks: Blocks) -> Floats:
    return _with_minima(blocks, _fields(blocks["q"], 4, 4))


def _decode_q5_k(blocks: Blocks) -> Floats:
    return _with_minima(blocks, _fields(blocks["q"], 4, 4) | (_fields(blocks["h"], 1, 1) << np.uint8(4)))


# d * s * (q - 32), with s of eight bits for each 16 weights
def _decode_q6_k(blocks: Blocks) -> Floats:
    d = scale(blocks, "d") * blocks["scales"].astype(np.float32)
    q = _fields(blocks["q"], 4, 2) | (_fields(blocks["h"], 2, 2) << np.uint8(4))
    return _whole(d[:, :, None] * _in_sub_blocks(q.astype(np.int8) - np.int8(32), 16))


# d * (s - 32) * level[q], with s of six bits for each 32 weights
def _decode_iq4_xs(blocks: Blocks) -> Floats:
    low = np.stack((blocks["scales"] & np.uint8(15), blocks["scales"] >> np.uint8(4)), axis=2).reshape(-1, 8)
    high = (blocks["h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & np.uint8(3)
    scales = (low | (high << np.uint8(4))).astype(np.int8) - np.int8(32)
    d = scale(blocks, "d") * scales.astype(np.float32)
    return _whole(d[:, :, None] * iq4_levels()[_fields(blocks["q"], 4, 8)].reshape(-1, 8, 32))


def _type(name: str, decode: Any, *fields: Field) -> BlockType:
    return BlockType(name, _SIZE, fields, decode)


_D, _DMIN = ("d", "<f2"), ("dmin", "<f2")
_NIBBLES, _CRUMBS = ("q", "u1", (128,)), ("q", "u1", (64,))
_SCALES, _BITS = ("scales", "u1", (12,)), ("h", "u1", (32,))

BLOCKS_OF_256 = (
    _type("q2_k", _decode_q2_k, ("scales", "u1", (16,)), _CRUMBS, _D, _DMIN),
    _type("q3_k", _decode_q3_k, _BITS, _CRUMBS, _SCALES, _D),
    _type("q4_k", _decode_q4_k, _D, _DMIN, _SCALES, _NIBBLES),
    _type("q5_k", _decode_q5_k, _D, _DMIN, _SCALES, _BITS, _NIBBLES),
    _type("q6_k", _decode_q6_k, _NIBBLES, ("h", "u1", (64,)), ("scales", "i1", (16,)), _D),
    _type("iq4_xs", _decode_iq4_xs, _D, ("h", "<u2"), ("scales", "u1", (4,)), _NIBBLES),
)
