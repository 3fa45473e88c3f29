"""Types of ggml as targets store them, for the files of llama.cpp and rwkv.cpp."""

from __future__ import annotations

from functools import partial

import numpy as np

from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import encode_blocks
from rwkv_cy.formats.writers.base import Array, BlockCodec, StoredType

__all__ = ["block_type"]


def block_type(name: str, where: str) -> StoredType:
    """Return the type of a tensor that is quantized to blocks.

    Parameters
    ----------
    name : str
        A type that :func:`rwkv_cy.formats.ggml.encode.encode_blocks` takes.
    where : str
        The tensor, for messages about weights that it cannot hold.
    """
    block = BLOCK_TYPES[name]
    codec = BlockCodec(partial(_encode, name, where), partial(_decode, name))
    return StoredType(name, "f32", block.size, block.nbytes, codec)


def _encode(name: str, where: str, numbers: Array) -> Array:
    return encode_blocks(name, numbers.reshape(-1, BLOCK_TYPES[name].size), where).view(np.uint8)


def _decode(name: str, encoded: Array) -> Array:
    block = BLOCK_TYPES[name]
    return block.decode(encoded.view(block.layout))
