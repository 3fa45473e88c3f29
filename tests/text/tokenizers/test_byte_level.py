"""World vocabularies in a tokenizer.json: the library's ids, without the library and its time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rwkv_cy.text.tokenizers import WorldTokenizer, find_tokenizer
from rwkv_cy.text.tokenizers.byte_level import byte_of_character, greedy_vocabulary
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE
from text.samples import byte_level_json, world_tokens


def greedy_json(tokens: list[bytes], **changed: Any) -> bytes:
    """Return the tokenizer.json that the tokenizers library writes for a greedy vocabulary of these bytes."""
    tokenizers = pytest.importorskip("tokenizers")
    characters = {byte: character for character, byte in byte_of_character().items()}
    vocabulary = {"<|endoftext|>": 0}
    for number, token in enumerate(tokens):
        if number:
            text = "".join(characters[byte] for byte in token)
            vocabulary[text or f"\ue000{number}\ue001"] = number
    model = {"continuing_subword_prefix": "", "max_input_chars_per_word": 2**31 - 1} | changed
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=vocabulary, unk_token="<|endoftext|>", **model))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True)])
    text: str = tokenizer.to_str()
    return text.encode()


def test_a_world_vocabulary(tmp_path: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(greedy_json(world_tokens()))
    found = find_tokenizer(path)
    assert isinstance(found, WorldTokenizer)
    assert found.to_bytes() == WorldTokenizer(world_tokens()).to_bytes()
    assert found.vocab_size == WORLD_SIZE


def test_a_small_vocabulary_keeps_all_of_its_ids() -> None:
    tokens = [b"", *(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"  ", b"", b""]
    assert greedy_vocabulary(greedy_json(tokens)) == tokens


def test_the_ids_of_the_library() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    data = greedy_json(world_tokens())
    theirs = tokenizers.Tokenizer.from_str(data.decode())
    vocabulary = greedy_vocabulary(data)
    assert vocabulary is not None
    ours = WorldTokenizer(vocabulary)
    rng = np.random.default_rng(8)
    pieces = ["In the", " the", "he", "\n\n", "a'b", "\u4eba", "\U0001f642", "\x7f\x00", " ", "\u00e9", "zz", "\t\t"]
    for _ in range(200):
        text = "".join(rng.choice(pieces, rng.integers(1, 20)))
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == theirs.decode(ids) == text


def change(data: bytes, *keys: str | int, value: Any) -> bytes:
    settings = json.loads(data)
    place = settings
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(settings).encode()


def test_what_is_not_a_greedy_vocabulary_is_the_librarys() -> None:
    data = greedy_json([b"", *(bytes([byte]) for byte in range(256))])
    assert greedy_vocabulary(data) is not None
    more = json.loads(data)["added_tokens"] + [{"id": 300, "content": "<x>", "special": True}]
    others = [
        byte_level_json(),
        change(data, "model", "continuing_subword_prefix", value="##"),
        change(data, "normalizer", value={"type": "NFC"}),
        change(data, "pre_tokenizer", "use_regex", value=True),
        change(data, "pre_tokenizer", "add_prefix_space", value=True),
        change(data, "pre_tokenizer", value={"type": "Whitespace"}),
        change(data, "decoder", value=None),
        change(data, "added_tokens", value=more),
        change(data, "added_tokens", value={}),
        change(data, "model", "vocab", value=[]),
        change(data, "model", "vocab", "x", value=WORLD_SIZE),
        change(data, "model", "vocab", "x", value=-1),
        change(data, "model", "vocab", "x", value=True),
        change(data, "model", "vocab", "xx", value=7),  # the id of another text
        change(data, "model", value=None) + b'"type": "WordPiece"',
        data[:-1],
    ]
    assert [greedy_vocabulary(other) for other in others] == [None] * len(others)
