"""Text in and out: tokenizers, sampling, generation."""

from __future__ import annotations

from rwkv_cy.text.generate import Generation, TextModel, generate
from rwkv_cy.text.options import SamplingOptions
from rwkv_cy.text.sampling import Sampler
from rwkv_cy.text.tokenizers import ByteTokenizer, Tokenizer, find_tokenizer, load_tokenizer
from rwkv_cy.text.world import WorldTokenizer

__all__ = [
    "ByteTokenizer",
    "Generation",
    "Sampler",
    "SamplingOptions",
    "TextModel",
    "Tokenizer",
    "WorldTokenizer",
    "find_tokenizer",
    "generate",
    "load_tokenizer",
]
