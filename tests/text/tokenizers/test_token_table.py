"""The compiled table of tokens: its bounds, and what its caller makes an error of."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.errors import TokenizerError
from rwkv_cy.text.tokenizers.token_table import MAX_TOKEN_BYTES, TokenTable


def table_of(*tokens: bytes) -> TokenTable:
    return TokenTable(np.array([len(token) for token in tokens], np.uint16), b"".join(tokens))


def test_tokens_by_id_and_by_bytes() -> None:
    table = table_of(b"", b"a", b"", b"ab", b"abc")
    assert len(table) == 5
    assert [table.token(number) for number in range(5)] == [b"", b"a", b"", b"ab", b"abc"]
    assert table.encode(b"abcaba") == ([4, 3, 1], 6)
    assert table.encode(b"abxa") == ([3], 2)
    assert table.encode(b"") == ([], 0)
    assert [byte for byte in range(256) if table.has_byte(byte)] == [ord("a")]
    assert not table.has_byte(256)
    assert not table.has_byte(-1)
    assert table.twice is None


@pytest.mark.parametrize("number", [-1, 2])
def test_ids_outside(number: int) -> None:
    with pytest.raises(IndexError, match=f"expected an id from 0 to 1, got {number}"):
        table_of(b"a", b"b").token(number)


def test_the_same_bytes_twice() -> None:
    assert table_of(b"a", b"", b"b", b"", b"a", b"b").twice == (0, 4)


def test_lengths_that_do_not_fit() -> None:
    with pytest.raises(TokenizerError, match="expected 3 bytes in all, got 2"):
        TokenTable(np.array([1, 2], np.uint16), b"ab")
    long = b"a" * (MAX_TOKEN_BYTES + 1)
    with pytest.raises(TokenizerError, match="expected at most 256 bytes each, got 257 for id 1"):
        table_of(b"", long)
    assert table_of(b"", long[1:]).encode(long) == ([1], MAX_TOKEN_BYTES)


def test_every_length_and_every_first_byte() -> None:
    tokens = [bytes([first]) * length for first in range(256) for length in (1, 2, 3, 7, 100, 256)]
    table = table_of(*tokens)
    for number, token in enumerate(tokens):
        assert table.encode(token) == ([number], len(token))
