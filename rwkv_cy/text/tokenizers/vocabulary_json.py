"""Vocabularies of bytes in JSON: web-rwkv's, those of character-level training, and the World vocabulary by its texts.

Sources: github.com/cryscan/web-rwkv, src/tokenizer.rs (id to text, or to a list of bytes);
github.com/BlinkDL/RWKV-LM, RWKV-v4/src/utils.py (id to character, in UTF-16);
github.com/BBuf/RWKV-World-HF-Tokenizer, rwkv_world_tokenizer (text, escaped, to id).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, TokenizerError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.text.tokenizers.vocabulary import MAX_VOCABULARY_BYTES, WORLD_SIZE, as_table, evaluate

__all__ = ["parse_json"]

_ID = re.compile(r"0|[1-9][0-9]{0,8}")
#: A text that is the literal of bytes, some of which are not ASCII: what is valid UTF-8 is the literal of a str.
_ESCAPED_BYTES = re.compile(
    "|".join(
        rf"b{quote}(?=.*\\x[89a-f])(?:(?![{quote}\\])[\x20-\x7e]|\\(?:[\\'\"nrt]|x[0-9a-f]{{2}}))*{quote}"
        for quote in "'\""
    )
)
_ESCAPED = re.compile(r"(?:[^\\\x00-\x1f\x7f]|\\(?:[\\'\"nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}))+")
#: How other tokenizers write that a word begins, or goes on: their texts are not the bytes of their tokens.
_MARKED = re.compile(r"(?:\u0120|\u2581|##\w).+", re.DOTALL)
_KINDS = "a tokenizer.json has a model in it, a vocabulary maps ids to texts or to bytes, or texts to ids"


def parse_json(data: bytes, name: str = "vocabulary") -> list[bytes]:
    """Read a vocabulary in JSON: id to text or list of bytes, or text to id.

    Texts are as they are, or escaped as ``repr`` does: then the texts that are not valid UTF-8 are the literals of
    bytes.

    Parameters
    ----------
    data : bytes
        The file's contents, in UTF-8.
    name : str
        The file's name, for messages.

    Returns
    -------
    list of bytes
        As :func:`~rwkv_cy.text.tokenizers.vocabulary.as_table` returns them.

    Raises
    ------
    TokenizerError
        If it is not a vocabulary, or repeats an id; the message names the entry.
    """
    if len(data) > MAX_VOCABULARY_BYTES:
        raise TokenizerError(f"{name}: expected at most {MAX_VOCABULARY_BYTES} bytes, got {len(data)}")
    if data.lstrip()[:1] != b"{":
        raise TokenizerError(f"{name}: expected a tokenizer, got a JSON list; {_KINDS}")
    try:
        entries = parse_object(Path(name), "vocabulary", data)
    except FormatError as error:
        raise TokenizerError(str(error)) from None
    by_id = bool(entries) and all(map(_ID.fullmatch, entries))
    pairs = _by_id(entries, name) if by_id and not _are_ids(entries) else _by_text(entries, name)
    tokens: dict[int, bytes] = {}
    for number, token in pairs:
        if not 0 <= number < WORLD_SIZE:
            raise TokenizerError(f"{name}: expected ids from 0 to {WORLD_SIZE - 1}, got {number}")
        if number in tokens:
            raise TokenizerError(f"{name}: duplicate id {number}")
        tokens[number] = token
    return as_table(tokens, name)


def _are_ids(entries: Mapping[str, Any]) -> bool:
    return all(type(value) is int for value in entries.values())


def _by_id(entries: Mapping[str, Any], name: str) -> Iterator[tuple[int, bytes]]:
    for key, value in entries.items():
        try:
            yield int(key), _token(value)
        except ValueError as problem:
            raise TokenizerError(f"{name}: {key}: {problem}") from None


def _token(value: object) -> bytes:
    if isinstance(value, str):
        return _encode(value)
    if isinstance(value, list) and value and all(type(byte) is int and 0 <= byte < 256 for byte in value):
        return bytes(value)
    raise ValueError(f"expected a text or a list of bytes, got {str(value)[:40]!a}")


def _encode(text: str) -> bytes:
    try:
        token = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"invalid Unicode in {text!a}") from None
    if not token:
        raise ValueError("empty token")
    return token


def _by_text(entries: Mapping[str, Any], name: str) -> Iterator[tuple[int, bytes]]:
    if not entries or not _are_ids(entries):
        some = ", ".join(ascii(key[:40]) for key in list(entries)[:3]) or "nothing"
        raise TokenizerError(f"{name}: expected a tokenizer, got a JSON object of {some}; {_KINDS}")
    escaped = any(map(_ESCAPED_BYTES.fullmatch, entries))
    marked = None if escaped else next(filter(_MARKED.fullmatch, entries), None)
    if marked is not None:
        raise TokenizerError(
            f"{name}: expected the bytes of tokens, got {marked[:40]!a}, as tokenizers with merges write them; "
            "name the tokenizer.json that belongs to it"
        )
    for text, number in entries.items():
        try:
            yield number, _unescape(text) if escaped else _encode(text)
        except ValueError as problem:
            raise TokenizerError(f"{name}: {text[:40]!a}: {problem}") from None


def _unescape(text: str) -> bytes:
    if _ESCAPED_BYTES.fullmatch(text):
        return evaluate(text)
    if not _ESCAPED.fullmatch(text):
        raise ValueError("expected a text escaped as the others are, got something else")
    # A quote is escaped or not, as the literal that it comes from had the other one around it.
    return evaluate("'" + re.sub(r"\\.|'", lambda match: match[0] if match[0] != "'" else "\\'", text) + "'")
