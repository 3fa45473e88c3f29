"""A short run of the vocabulary's fuzz target."""

from __future__ import annotations

import json

import pytest

from fuzz.fuzz_vocabulary import fuzz_one
from fuzz.mutate import fuzz
from rwkv_cy.text.tokenizers.vocabulary import pack
from text.samples import byte_level_json, line, world_tokens


def lines() -> bytes:
    return "".join(line(i, token) + "\n" for i, token in enumerate(world_tokens()) if token).encode()


def literals() -> bytes:
    return "\n".join(["b'<s>'", *map(repr, filter(None, world_tokens()))]).encode()


def by_id() -> bytes:
    return json.dumps({i: list(token) for i, token in enumerate(world_tokens()) if token}).encode()


def by_text() -> bytes:
    return json.dumps({chr(0x4E00 + i): i for i in range(50)}).encode()


@pytest.mark.parametrize("seed", [lines, literals, lambda: pack(world_tokens()), by_id, by_text, byte_level_json])
def test_damaged_vocabularies(seed, fuzz_examples: int) -> None:  # type: ignore[no-untyped-def]
    fuzz(fuzz_one, [seed()], fuzz_examples)
