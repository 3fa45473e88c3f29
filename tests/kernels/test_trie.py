"""The trie against the longest match written in three lines of Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import KernelError, TokenError
from rwkv_cy.kernels.trie import MAX_BYTES, Trie

# few different bytes, so that tokens share beginnings, and the ends of the range of bytes
letters = st.sampled_from([0x00, 0x01, 0x61, 0x62, 0x7F, 0x80, 0xFE, 0xFF])
words = st.lists(letters, min_size=1, max_size=6).map(bytes)
vocabularies = st.sets(words, min_size=1, max_size=40).map(sorted)


def trie_of(tokens: list[bytes]) -> Trie:
    offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    return Trie(offsets, b"".join(tokens))


def naive_encode(tokens: list[bytes], text: bytes) -> list[int] | int:
    """Return the ids of the longest matches, or the place at which none is."""
    ids, place = [], 0
    while place < len(text):
        fitting = [t for t in tokens if t and text.startswith(t, place)]
        if not fitting:
            return place
        longest = max(fitting, key=len)
        ids.append(tokens.index(longest))
        place += len(longest)
    return ids


@given(vocabularies, st.lists(letters, max_size=60).map(bytes), st.data())
@settings(max_examples=300, deadline=None)
def test_longest_match_as_the_naive_one(tokens: list[bytes], text: bytes, data: st.DataObject) -> None:
    tokens = data.draw(st.permutations([b"", *tokens]))  # order of ids is free, and an id may have no bytes
    trie = trie_of(tokens)
    expected = naive_encode(tokens, text)
    if isinstance(expected, int):
        with pytest.raises(KernelError, match=rf"byte {expected}: expected one that begins a token, got 0x"):
            trie.encode(text)
    else:
        assert trie.encode(text) == expected
        assert trie.decode(expected) == text


@given(st.lists(words, max_size=30), vocabularies)
@settings(max_examples=100, deadline=None)
def test_text_made_of_tokens(parts: list[bytes], tokens: list[bytes]) -> None:
    text = b"".join(parts)
    tokens = sorted({*tokens, *(bytes([b]) for b in range(256))})
    trie = trie_of(tokens)
    assert trie.encode(text) == naive_encode(tokens, text)
    assert trie.decode(trie.encode(text)) == text


def test_a_large_dense_vocabulary() -> None:
    rng = np.random.default_rng(0)
    tokens = [bytes([b]) for b in range(256)]
    tokens += sorted({rng.bytes(int(n)) for n in rng.integers(2, 5, 20_000)})
    trie = trie_of(tokens)
    chosen = rng.integers(0, len(tokens), 500).tolist()
    text = trie.decode(chosen)
    assert text == b"".join(tokens[i] for i in chosen)
    ids = trie.encode(text)
    assert b"".join(tokens[i] for i in ids) == text
    for token_id in chosen:
        assert trie.encode(tokens[token_id]) == [token_id]


def test_one_long_token_and_its_proper_prefix() -> None:
    long = b"ab" * 5_000
    trie = trie_of([b"a", b"b", long])
    assert trie.encode(long) == [2]
    assert trie.encode(long[:-1]) == [0, 1] * 4_999 + [0]
    assert trie.encode(long + b"a") == [2, 0]


def test_more_tokens_than_first_reckoned_with() -> None:
    """Every byte a token: the buffer for the ids, half as long as the text at first, must grow."""
    trie = trie_of([bytes([b]) for b in range(256)])
    text = bytes(range(256)) * 40
    assert trie.encode(text) == list(text)


def test_str_stands_for_its_utf8() -> None:
    trie = trie_of([bytes([b]) for b in range(256)])
    assert trie.encode("é人🙂") == list("é人🙂".encode())
    assert trie.encode("") == trie.encode(b"") == []
    with pytest.raises(UnicodeEncodeError):
        trie.encode("\ud800")


@pytest.mark.parametrize("text", [None, 3, bytearray(b"a"), ["a"]])
def test_text_of_another_type(text: object) -> None:
    with pytest.raises(KernelError, match=r"text: expected str or bytes, got"):
        trie_of([b"a"]).encode(text)  # type: ignore[arg-type]


def test_an_empty_vocabulary_matches_nothing() -> None:
    trie = trie_of([b"", b""])
    assert trie.encode(b"") == []
    assert trie.decode([0, 1]) == b""
    with pytest.raises(KernelError, match="byte 0: expected one that begins a token, got 0x61"):
        trie.encode(b"a")


@pytest.mark.parametrize("token", [-1, 3, 1 << 31, 1 << 64, -(1 << 70)])
def test_ids_outside(token: int) -> None:
    with pytest.raises(TokenError, match=rf"token 1: expected an id from 0 to 2, got {token}"):
        trie_of([b"a", b"b", b"c"]).decode([0, token])


@pytest.mark.parametrize("token", [True, 1.0, "1", None, b"a", np.float32(1)])
def test_ids_that_are_no_integers(token: object) -> None:
    with pytest.raises(TokenError, match=r"token 0: expected an integer, got"):
        trie_of([b"a", b"b"]).decode([token])  # type: ignore[list-item]


def test_ids_as_numpy_integers_and_from_any_iterable() -> None:
    trie = trie_of([b"a", b"b"])
    assert trie.decode(np.array([0, 1, 1], dtype=np.uint16)) == b"abb"
    assert trie.decode(i for i in (1, 0)) == b"ba"


def test_duplicates_are_refused() -> None:
    with pytest.raises(KernelError, match="expected different tokens, got the same bytes for ids 0 and 2"):
        trie_of([b"ab", b"b", b"ab"])


@pytest.mark.parametrize(
    ("offsets", "data", "message"),
    [
        ([], b"", r"offsets: expected 1 to \d+ of them, got 0"),
        ([0, 2], b"a", r"offsets: expected 0 to 1, got 0 to 2"),
        ([1, 1], b"a", r"offsets: expected 0 to 1, got 1 to 1"),
        ([0, 3, 1, 2], b"ab", r"offsets: expected rising ones, got 1 after 3"),
        ([0, -1, 2], b"ab", r"offsets: expected rising ones, got -1 after 0"),
    ],
)
def test_offsets_that_lie(offsets: list[int], data: bytes, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        Trie(np.array(offsets, dtype=np.int64), data)


def test_too_much_data() -> None:
    with pytest.raises(KernelError, match=rf"data: expected at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"):
        Trie(np.zeros(1, dtype=np.int64), bytes(MAX_BYTES + 1))


def test_memory_is_counted() -> None:
    assert 0 < trie_of([b"a"]).nbytes < 100_000
