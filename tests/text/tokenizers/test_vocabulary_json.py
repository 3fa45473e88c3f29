"""Vocabularies in JSON, in each of their directions, valid and damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import TokenizerError
from rwkv_cy.text.tokenizers.vocabulary import MAX_VOCABULARY_BYTES, parse_text
from rwkv_cy.text.tokenizers.vocabulary_json import parse_json
from text.samples import line, world_tokens


def dumped(entries: object) -> bytes:
    return json.dumps(entries).encode()


def web_rwkv(tokens: list[bytes]) -> dict[str, Any]:
    """As assets/scripts/convert_tokenizer.py of web-rwkv: a text, or a list of the bytes that are not one."""
    entries: dict[str, Any] = {}
    for number, token in enumerate(tokens):
        if token:
            try:
                entries[str(number)] = token.decode()
            except UnicodeDecodeError:
                entries[str(number)] = list(token)
    return entries


def escaped(tokens: list[bytes]) -> dict[str, int]:
    """As the World vocabulary by its texts: without the quotes of a str, with those of bytes."""
    entries = {}
    for number, token in enumerate(tokens):
        if token:
            literal = line(0, token).split(" ", 1)[1].rsplit(" ", 1)[0]
            entries[literal if literal[0] == "b" else literal[1:-1]] = number
    return entries


@pytest.mark.parametrize("form", [web_rwkv, escaped])
def test_the_world_vocabulary(form: Any) -> None:
    assert parse_json(dumped(form(world_tokens()))) == world_tokens()


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=20, unique=True))
@settings(max_examples=200, deadline=None)
def test_any_bytes(tokens: list[bytes]) -> None:
    expected = [b"", *tokens]
    assert parse_json(dumped(web_rwkv(expected))) == expected
    if any(key.startswith("b'") for key in escaped(expected)):
        assert parse_json(dumped(escaped(expected))) == expected


def test_texts_to_ids_as_they_are() -> None:
    assert parse_json(dumped({"\n": 0, "b": 2, "\\n": 1, "\u4eba": 4})) == [b"\n", b"\\n", b"b", b"", "\u4eba".encode()]
    assert parse_json(dumped({"0": 1, "1": 0})) == [b"1", b"0"]
    assert parse_json(dumped({"<s>": 0, "a": 1})) == [b"", b"a"]


def test_ids_to_texts() -> None:
    assert parse_json(dumped({"0": "\n", "2": "b"})) == [b"\n", b"", b"b"]
    assert parse_json(dumped({"1": "\\n", "2": [255, 0]})) == [b"", b"\\n", b"\xff\0"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"1": "a", "1": "b"}', "v: vocabulary: expected a plain JSON object, got the key '1' twice"),
        (b'{"a": 1, "b": 1}', "v: duplicate id 1"),
        (b'{"1": "a", "2": 7}', "v: 2: expected a text or a list of bytes, got '7'"),
        (b'{"1": [256]}', r"v: 1: expected a text or a list of bytes, got '\[256\]'"),
        (b'{"1": []}', "v: 1: expected a text or a list of bytes"),
        (b'{"1": [true]}', "v: 1: expected a text or a list of bytes"),
        (b'{"1": ""}', "v: 1: empty token"),
        (b'{"1": "\\ud800"}', "v: 1: invalid Unicode"),
        (b'{"65536": "a"}', "v: expected ids from 0 to 65535, got 65536"),
        (b'{"a": -1}', "v: expected ids from 0 to 65535, got -1"),
        (b'{"a": true}', "v: expected a tokenizer, got a JSON object of 'a'; a tokenizer.json has a model in it"),
        (b'{"a": 1.5}', "v: expected a tokenizer, got a JSON object of 'a'"),
        (b'{"\\u0120the": 1, "a": 2}', "v: expected the bytes of tokens, got '.u0120the', as tokenizers with merges"),
        (b'{"##ing": 1}', "v: expected the bytes of tokens, got '##ing'"),
        (b'{"b\'\\\\xff\'": 1, "\\n": 2}', "v: .*: expected a text escaped as the others are, got something else"),
        (b"{", "v: vocabulary: expected a plain JSON object"),
    ],
)
def test_malformed_entries_are_named(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        parse_json(data, "v")


def test_a_file_that_is_too_long() -> None:
    with pytest.raises(TokenizerError, match=f"expected at most {MAX_VOCABULARY_BYTES} bytes"):
        parse_json(b"{" + bytes(MAX_VOCABULARY_BYTES))


def test_the_forms_agree() -> None:
    tokens = world_tokens()
    text = "\n".join(line(number, token) for number, token in enumerate(tokens) if token)
    assert parse_text(text.encode()) == parse_json(dumped(web_rwkv(tokens))) == parse_json(dumped(escaped(tokens)))
