"""Vocabularies of bytes in a ``tokenizer.json``: GPT-2's alphabet, and the World vocabulary written in it.

Source: the repositories of the organisation RWKV on the Hugging Face hub, made by github.com/aabbdev/rwkv-publisher. A
WordPiece model without a prefix for the parts of a word, whose only word is the whole text, takes the longest token at
each place, as the World tokenizer does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, as_table

__all__ = ["byte_of_character", "greedy_vocabulary"]

#: Told before the file is parsed as a whole, since others are read by the tokenizers library.
_WORDPIECE = re.compile(rb'"type"\s*:\s*"WordPiece"')
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def byte_of_character() -> dict[str, int]:
    """Return GPT-2's mapping of characters to bytes: a printable character is its own byte, others start at 256."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def greedy_vocabulary(data: bytes, name: str = "tokenizer.json") -> list[bytes] | None:
    """Return the vocabulary of a ``tokenizer.json`` that takes the longest token of bytes at each place of a text.

    Parameters
    ----------
    data : bytes
        The file's contents.
    name : str
        The file's name, for messages.

    Returns
    -------
    list of bytes or None
        As :func:`~rwkv_cy.text.tokenizers.vocabulary.as_table` returns them; None for any other file, damaged ones too.
        Names that are not bytes (placeholders of unused ids, the end of a text) have none.
    """
    if not _WORDPIECE.search(data):
        return None
    try:
        settings = parse_object(Path(name), "tokenizer", data)
    except FormatError:
        return None
    vocabulary = _vocabulary(settings)
    if vocabulary is None:
        return None
    byte_of = byte_of_character()
    tokens: dict[int, bytes] = dict.fromkeys(vocabulary.values(), b"")
    for text, number in vocabulary.items():
        if number and all(character in byte_of for character in text):
            tokens[number] = bytes(byte_of[character] for character in text)
    return as_table(tokens, name)


def _vocabulary(settings: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the ids by their texts, if all settings are those of a greedy vocabulary of bytes."""
    model, added = settings.get("model"), settings.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(added, list):
        return None
    greedy = model.get("type") == "WordPiece" and model.get("continuing_subword_prefix") == ""
    whole = not settings.get("normalizer") and _holds(settings.get("pre_tokenizer"), _BYTE_LEVEL)
    # The only added token is the name of the end of a text, id 0, which no text is encoded as.
    alone = all(isinstance(token, dict) and token.get("id") == 0 and token.get("special") is True for token in added)
    vocabulary = model.get("vocab")
    if not (greedy and whole and alone and _holds(settings.get("decoder"), {"type": "ByteLevel"})):
        return None
    if not isinstance(vocabulary, dict) or not all(
        type(number) is int and 0 <= number < WORLD_SIZE for number in vocabulary.values()
    ):
        return None
    # Of two texts with one id the library knows both.
    return vocabulary if len(set(vocabulary.values())) == len(vocabulary) else None


def _holds(step: object, expected: Mapping[str, Any]) -> bool:
    return isinstance(step, dict) and all(step.get(key) == value for key, value in expected.items())
