"""A short run of the vocabulary's fuzz target."""

from __future__ import annotations

import pytest

from fuzz.fuzz_vocabulary import fuzz_one
from fuzz.mutate import fuzz
from rwkv_cy.text.tokenizers.vocabulary import pack
from text.samples import byte_level_json, line, world_tokens


def world_lines() -> bytes:
    return "".join(line(i, token) + "\n" for i, token in enumerate(world_tokens()) if token).encode()


@pytest.mark.parametrize(
    "seed", [world_lines, lambda: pack(world_tokens()), byte_level_json], ids=["text", "packed", "json"]
)
def test_damaged_vocabularies(seed, fuzz_examples: int) -> None:  # type: ignore[no-untyped-def]
    fuzz(fuzz_one, [seed()], fuzz_examples)
