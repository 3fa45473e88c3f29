"""The block types of ggml, which rwkv.cpp and llama.cpp store matrices in, by their names in lower case."""

from __future__ import annotations

from rwkv_cy.formats.ggml.blocks import BLOCKS_OF_32, BlockType
from rwkv_cy.formats.ggml.superblocks import BLOCKS_OF_256

__all__ = ["BLOCK_TYPES", "BlockType"]

BLOCK_TYPES: dict[str, BlockType] = {block.name: block for block in (*BLOCKS_OF_32, *BLOCKS_OF_256)}
