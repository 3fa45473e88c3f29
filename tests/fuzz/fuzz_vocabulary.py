"""Fuzz target of the tokenizers' data: vocabularies in each form, and tokenizer.json."""

from __future__ import annotations

from rwkv_cy.errors import MissingDependencyError, TokenizerError
from rwkv_cy.text.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, is_packed
from rwkv_cy.text.tokenizers.vocabulary_json import parse_json
from rwkv_cy.text.tokenizers.world import WorldTokenizer

SAMPLES = (b"In the beginning\n\n", "人é🙂".encode(), bytes(range(256)))


def fuzz_one(data: bytes) -> None:
    """Load a vocabulary as `find_tokenizer` does; what loads must give back any bytes that it can encode.

    A vocabulary of the World's size can encode any.
    """
    if data[:1] == b"{":
        try:
            json_tokenizer = HuggingFaceTokenizer(data)
        except MissingDependencyError:
            return
        except TokenizerError:
            check(WorldTokenizer(parse_json(data)))
            return
        json_tokenizer.decode(json_tokenizer.encode("In the beginning"))
        return
    check(WorldTokenizer.from_bytes(data) if is_packed(data) else WorldTokenizer.from_text(data))


def check(tokenizer: WorldTokenizer) -> None:
    for sample in SAMPLES:
        try:
            ids = tokenizer.encode_bytes(sample)
        except TokenizerError:
            if tokenizer.vocab_size == WORLD_SIZE:
                raise AssertionError(f"{sample!r} cannot be encoded") from None
            continue
        if tokenizer.decode_bytes(ids) != sample:
            raise AssertionError(f"{sample!r} does not come back")
    if WorldTokenizer.from_bytes(tokenizer.to_bytes()).to_bytes() != tokenizer.to_bytes():
        raise AssertionError("the stored form does not come back")
