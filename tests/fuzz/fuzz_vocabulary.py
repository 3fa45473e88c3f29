"""Fuzz target of the tokenizers' data: World vocabularies in both forms, and tokenizer.json."""

from __future__ import annotations

from rwkv_cy.errors import MissingDependencyError
from rwkv_cy.text.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.vocabulary import is_packed
from rwkv_cy.text.tokenizers.world import WorldTokenizer

SAMPLES = (b"In the beginning\n\n", "人é🙂".encode(), bytes(range(256)))


def fuzz_one(data: bytes) -> None:
    """Load a vocabulary as `find_tokenizer` does; what loads must encode any bytes and give them back."""
    if data[:1] == b"{":
        try:
            json_tokenizer = HuggingFaceTokenizer(data)
        except MissingDependencyError:
            return
        json_tokenizer.decode(json_tokenizer.encode("In the beginning"))
        return
    tokenizer = WorldTokenizer.from_bytes(data) if is_packed(data) else WorldTokenizer.from_text(data)
    for sample in SAMPLES:
        if tokenizer.decode_bytes(tokenizer.encode_bytes(sample)) != sample:
            raise AssertionError(f"{sample!r} does not come back")
    if WorldTokenizer.from_bytes(tokenizer.to_bytes()).to_bytes() != tokenizer.to_bytes():
        raise AssertionError("the stored form does not come back")
