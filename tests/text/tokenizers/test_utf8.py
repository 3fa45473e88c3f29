"""Text of a stream of tokens: characters are neither split nor dropped."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import TokenizerError
from rwkv_cy.text.tokenizers.utf8 import Utf8Stream, decode_text, encode_text


def stream() -> Utf8Stream:
    return Utf8Stream(bytes)


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)))
@settings(deadline=None)
def test_pieces_make_what_decoding_at_once_makes(data: bytes) -> None:
    pieces = stream()
    text = "".join(pieces.push(byte) for byte in data) + pieces.finish()
    assert text == data.decode("utf-8", "replace")


@given(st.text(min_size=1, max_size=20))
@settings(deadline=None)
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    pieces = stream()
    for character in text:
        *first, last = character.encode()
        assert [pieces.push(byte) for byte in first] == [""] * len(first)
        assert pieces.push(last) == character
    assert pieces.finish() == ""


def test_half_a_character_at_the_end() -> None:
    pieces = stream()
    assert [pieces.push(b) for b in "🙂".encode()[:3]] == ["", "", ""]
    assert pieces.finish() == "\ufffd"
    assert pieces.push(0x61) == "a"  # reset


def test_half_a_character_in_the_middle() -> None:
    pieces = stream()
    assert [pieces.push(b) for b in b"\xe4\xba!"] == ["", "", "\ufffd!"]


def test_lone_surrogates() -> None:
    with pytest.raises(TokenizerError, match=r"expected characters, got the lone surrogate '\\ud83d' at index 2"):
        encode_text("ab\ud83d")


def test_no_text() -> None:
    with pytest.raises(TokenizerError, match="text: expected str, got bytes; encode_bytes takes bytes"):
        encode_text(b"ab")  # type: ignore[arg-type]


def test_ways_to_treat_bad_bytes() -> None:
    assert decode_text(b"a\xff", "replace") == "a\ufffd"
    assert decode_text(b"a\xff", "ignore") == "a"
    with pytest.raises(TokenizerError, match="expected UTF-8, invalid byte at offset 1"):
        decode_text(b"a\xff", "strict")
    with pytest.raises(TokenizerError, match=r"errors: expected .* got 'surrogateescape'"):
        decode_text(b"a", "surrogateescape")
