"""Tokenizers: plain bytes, the RWKV World vocabulary, and Hugging Face's ``tokenizer.json``."""

from __future__ import annotations

from rwkv_cy.text.tokenizers.base import Tokenizer
from rwkv_cy.text.tokenizers.find import find_tokenizer, load_tokenizer
from rwkv_cy.text.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.plain_bytes import ByteTokenizer
from rwkv_cy.text.tokenizers.published import published_text
from rwkv_cy.text.tokenizers.world import WorldTokenizer

__all__ = [
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "Tokenizer",
    "WorldTokenizer",
    "find_tokenizer",
    "load_tokenizer",
    "published_text",
]
