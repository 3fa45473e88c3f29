"""Tokens for people and for JSON: the text of each, with its bytes where they are not a whole character."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkv_cy.text import Tokenizer

__all__ = ["piece_of", "quoted", "token_fields"]

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def piece_of(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """Return what gives the bytes of one token: none for an id of the model that the tokenizer does not have."""
    size = tokenizer.vocab_size
    return lambda token: tokenizer.decode_bytes([token]) if token < size else b""


def quoted(data: bytes) -> str:
    r"""Return bytes as text in quotes that a terminal can show: ``" the"``, ``"\n"``, ``"\xe4\xba"``.

    Two different sequences of bytes never look the same.
    """
    return '"' + "".join(map(_shown, data.decode("utf-8", "surrogateescape"))) + '"'


def _shown(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    return f"\\u{{{code:x}}}"


def token_fields(token: int, piece: bytes) -> dict[str, Any]:
    """Return a token for JSON: its id, its text, in which incomplete characters are U+FFFD, and its bytes in hex."""
    return {"id": token, "text": piece.decode("utf-8", "replace"), "bytes": piece.hex()}
