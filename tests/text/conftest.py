"""The small World vocabulary, as a file and as a tokenizer."""

from __future__ import annotations

import pytest

from rwkv_cy.text.tokenizers.world import WorldTokenizer
from text.samples import line, world_tokens


@pytest.fixture(scope="session")
def world_text() -> bytes:
    """Return a small World vocabulary in the text format."""
    return "".join(line(i, token) + "\r\n" for i, token in enumerate(world_tokens()) if token).encode()


@pytest.fixture(scope="session")
def world() -> WorldTokenizer:
    """Return a tokenizer of a small World vocabulary."""
    return WorldTokenizer(world_tokens())
