"""The World tokenizer: round trips of any bytes, and the published vocabulary."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import TokenError, TokenizerError
from rwkv_cy.files.vocabulary_files import packaged_vocabulary
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE
from rwkv_cy.text.tokenizers.vocabulary_json import parse_json
from rwkv_cy.text.tokenizers.world import MAX_TOKEN_BYTES, WorldTokenizer
from text.samples import world_tokens

WORLD = WorldTokenizer(world_tokens())


@given(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(str.encode)))
@settings(deadline=None)
def test_any_bytes_there_and_back(data: bytes) -> None:
    ids = WORLD.encode_bytes(data)
    assert WORLD.decode_bytes(ids) == data
    assert 0 not in ids


@given(st.text(max_size=30))
@settings(deadline=None)
def test_any_text_there_and_back(text: str) -> None:
    ids = WORLD.encode(text)
    assert ids == WORLD.encode_bytes(text.encode())
    assert WORLD.decode(ids) == text
    stream = WORLD.stream()
    assert "".join(stream.push(i) for i in ids) + stream.finish() == text


def test_the_longest_token_wins() -> None:
    ids = {token: i for i, token in enumerate(world_tokens())}
    assert WORLD.encode(" In the") == [ids[b" In the"]]
    assert WORLD.encode("In the he") == [ids[b"In"], ids[b" the"], ids[b" "], ids[b"he"]]


# Few different bytes, so that tokens share prefixes, and the ends of the range of bytes.
letters = st.sampled_from([0x00, 0x01, 0x61, 0x62, 0x7F, 0x80, 0xFE, 0xFF])
words = st.lists(letters, min_size=2, max_size=6).map(bytes)


def naive_encode(tokens: list[bytes], text: bytes) -> list[int]:
    """Return the ids of the longest matches, by trying every token."""
    ids, place = [], 0
    while place < len(text):
        longest = max((token for token in tokens if token and text.startswith(token, place)), key=len)
        ids.append(tokens.index(longest))
        place += len(longest)
    return ids


@given(st.sets(words, max_size=40), st.lists(letters, max_size=60).map(bytes), st.lists(st.integers(0, 999)))
@settings(max_examples=60, deadline=None)
def test_longest_match_as_trying_every_token(more: set[bytes], letters: bytes, chosen: list[int]) -> None:
    used = [b"", *(bytes([b]) for b in range(256)), *sorted(more)]
    tokenizer = WorldTokenizer(used + [b""] * (WORLD_SIZE - len(used)))
    for text in (letters, b"".join(used[i % len(used)] for i in chosen)):
        ids = naive_encode(used, text)
        assert tokenizer.encode_bytes(text) == ids
        assert tokenizer.decode_bytes(ids) == text


def test_one_long_token_and_its_prefix() -> None:
    tokens = world_tokens()
    number = len(tokens) - 1
    long = tokens[number] = b"ab" * 64
    tokenizer = WorldTokenizer(tokens)
    a, b = tokenizer.encode("ab")
    assert tokenizer.encode_bytes(long) == [number]
    assert tokenizer.encode_bytes(long[:-1]) == [a, b] * 63 + [a]
    assert tokenizer.encode_bytes(long + b"a") == [number, a]


def test_tokens_far_longer_than_any_in_use() -> None:
    """Each length is tried at each place of a text."""
    tokens = world_tokens()
    tokens[-1] = b"a" * MAX_TOKEN_BYTES
    WorldTokenizer(tokens)
    tokens[-1] += b"a"
    with pytest.raises(TokenizerError, match=r"v: expected tokens of at most 256 bytes, 1048576 in all, got 257 and"):
        WorldTokenizer(tokens, "v")
    many = [b"", *(bytes([b]) for b in range(256)), *(b"%065d" % i for i in range(257, WORLD_SIZE))]
    with pytest.raises(TokenizerError, match=r"expected tokens of at most .* got 65 and 4243391; this is not a voc"):
        WorldTokenizer(many)


def test_characters_over_several_tokens() -> None:
    ids = {token: i for i, token in enumerate(world_tokens())}
    stream = WORLD.stream()
    assert stream.push(ids[b"\xe4\xba"]) == ""
    assert stream.push(ids[b"\xba"]) == "人"
    assert stream.push(ids[b"\xf0\x9f\x99"]) == ""
    assert stream.finish() == "\ufffd"


def test_ids_without_bytes_decode_to_nothing() -> None:
    assert WORLD.decode([0, 98, WORLD_SIZE - 1, 0]) == "a"
    assert WORLD.end_of_text == 0
    assert WORLD.vocab_size == 65_536
    assert repr(WORLD) == "WorldTokenizer(65536 ids)"


@pytest.mark.parametrize("token", [-1, 65_536, 1 << 64])
def test_ids_outside(token: int) -> None:
    with pytest.raises(TokenError, match=rf"tokens\[0\]: expected an id from 0 to 65535, got {token}"):
        WORLD.decode_bytes([token])


@pytest.mark.parametrize("token", [True, np.bool_(True), 98.0, None, "a"])
def test_ids_that_are_no_integers(token: Any) -> None:
    with pytest.raises(TokenError, match=r"tokens\[1\]: expected an integer, got"):
        WORLD.decode([98, token])
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an integer, got"):
        WORLD.stream().push(token)


def test_error_handlers_of_bad_bytes() -> None:
    assert WORLD.decode([256]) == "\ufffd"
    with pytest.raises(TokenizerError, match="expected UTF-8, invalid byte at offset 0"):
        WORLD.decode([256], errors="strict")


def test_what_is_no_text() -> None:
    with pytest.raises(TokenizerError, match="text: expected str, got bytes; encode_bytes takes bytes"):
        WORLD.encode(b"a")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=r"expected characters, got the lone surrogate '\\udfff' at index 0"):
        WORLD.encode("\udfff")
    assert WORLD.encode_bytes(bytearray(b"a")) == WORLD.encode_bytes(memoryview(b"a")) == [98]


def test_stored_and_restored(world_text: bytes) -> None:
    tokenizer = WorldTokenizer.from_text(world_text)
    again = WorldTokenizer.from_bytes(tokenizer.to_bytes())
    assert again.to_bytes() == WORLD.to_bytes()
    assert again.encode("In the 人") == tokenizer.encode("In the 人") == WORLD.encode("In the 人")


def test_a_vocabulary_without_all_bytes() -> None:
    tokens = world_tokens()
    tokens[1 + 0x80] = b""
    with pytest.raises(TokenizerError, match=r"my: expected a token for each of the 256 bytes, got 255 .* 0x80\)"):
        WorldTokenizer(tokens, "my")


def test_a_vocabulary_of_another_size() -> None:
    for tokens in ([], [*world_tokens(), b""]):
        with pytest.raises(TokenizerError, match=f"vocabulary: expected 1 to 65536 ids, got {len(tokens)}"):
            WorldTokenizer(tokens)


def test_a_small_vocabulary() -> None:
    tokenizer = WorldTokenizer([b"", b"UP ", b"UP and ", "人".encode()])
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (4, 0)
    assert tokenizer.encode("UP UP and 人") == [1, 2, 3]
    again = WorldTokenizer.from_bytes(tokenizer.to_bytes())
    assert again.decode([3, 0, 1]) == "人UP "
    with pytest.raises(TokenError, match="expected an id from 0 to 3, got 4"):
        again.decode([4])
    with pytest.raises(TokenizerError, match=r"got '.+xe4and ' at byte 3, .* vocabulary of 4 ids cannot encode every"):
        again.encode_bytes(b"UP \xe4and ")
    with pytest.raises(TokenizerError, match=r"expected characters of the vocabulary, got 'U' at byte 3"):
        again.encode("UP U")


def test_a_small_vocabulary_with_bytes_for_id_0() -> None:
    tokenizer = WorldTokenizer([b"\n", b"a"])
    assert tokenizer.end_of_text is None
    assert tokenizer.decode(tokenizer.encode("a\na")) == "a\na"


def test_a_vocabulary_with_bytes_for_id_0() -> None:
    with pytest.raises(TokenizerError, match="expected no bytes for id 0, which ends a text, got b'zz'"):
        WorldTokenizer([b"zz", *world_tokens()[1:]])


def test_a_vocabulary_with_a_token_twice() -> None:
    tokens = world_tokens()
    tokens[1_000] = tokens[300] = b"twice"
    with pytest.raises(TokenizerError, match="vocabulary: expected different tokens, got .* for ids 300 and 1000"):
        WorldTokenizer(tokens)


#: First and last characters of scripts, with blanks, digits and marks between their words.
SCRIPTS = (
    ("a", "z"), ("A", "Z"), ("\u00c0", "\u017f"), ("\u0391", "\u03c9"), ("\u0410", "\u044f"), ("\u05d0", "\u05ea"),
    ("\u0621", "\u064a"), ("\u0905", "\u0939"), ("\u0e01", "\u0e3a"), ("\u3041", "\u3096"), ("\u30a1", "\u30f6"),
    ("\u4e00", "\u9fff"), ("\uac00", "\ud7a3"), ("\U0001f300", "\U0001f64f"),
)  # fmt: skip
BETWEEN = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    ", ",
    ". ",
    "\u3002",
    "-",
    "'",
    '"',
    " (",
    ") ",
    "\u0301",
    "0",
    "12",
    "\x00",
)


def multilingual(rng: np.random.Generator, words: int) -> str:
    """Return random words of many scripts, with random marks between them."""
    text = []
    for _ in range(words):
        first, last = map(ord, SCRIPTS[rng.integers(len(SCRIPTS))])
        text += [chr(code) for code in rng.integers(first, last + 1, rng.integers(1, 9))]
        text.append(BETWEEN[rng.integers(len(BETWEEN))])
    return "".join(text)


@pytest.mark.oracle
def test_the_published_vocabulary() -> None:
    """Against the tokenizer of the ``rwkv`` package, which is plain Python and needs no torch."""
    pytest.importorskip("rwkv", reason="needs the rwkv package")
    path = packaged_vocabulary()
    sys.path.insert(0, str(path.parent))
    try:
        from rwkv_tokenizer import TRIE_TOKENIZER  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    theirs = TRIE_TOKENIZER(str(path))
    ours = WorldTokenizer.from_text(path.read_bytes(), str(path))
    rng = np.random.default_rng(0)
    texts = [
        "In the beginning God created",
        "人生若只如初见 🙂🏳️‍🌈 é\u0301",
        "def f(x):\n\treturn  x\r\n" * 3,
        " " * 300,
    ]
    data = [text.encode() for text in texts] + [rng.bytes(2_000) for _ in range(5)]
    data += [ours.decode_bytes(rng.integers(1, 65_530, 300).tolist()) for _ in range(20)]
    data += [multilingual(rng, 400).encode() for _ in range(40)]
    for sample in data:
        ids = ours.encode_bytes(sample)
        assert ids == theirs.encodeBytes(sample)
        assert ours.decode_bytes(ids) == theirs.decodeBytes(ids) == sample
    assert WorldTokenizer.from_bytes(ours.to_bytes()).encode(texts[1]) == ours.encode(texts[1])
    # The same in the other forms, made from theirs.
    tokens = [b"", *(theirs.idx2token[number] for number in range(1, 65_530))]
    lines = "\n".join([repr(b"<s>"), *map(repr, tokens[1:])]).encode()
    assert WorldTokenizer.from_text(lines).to_bytes() == ours.to_bytes()
    by_id = {number: list(token) for number, token in enumerate(tokens) if token}
    assert WorldTokenizer(parse_json(json.dumps(by_id).encode())).to_bytes() == ours.to_bytes()
