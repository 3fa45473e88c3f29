"""The published text format of World vocabularies, written: one line a token, ``id literal length``."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["published_text"]


def published_text(tokens: Sequence[bytes]) -> bytes:
    """Return the vocabulary file of these tokens, by id; ids without bytes have no line.

    A token that is valid UTF-8 is written as a str literal, any other as a bytes literal.
    """
    return "".join(
        f"{number} {_literal(token)} {len(token)}\n" for number, token in enumerate(tokens) if token
    ).encode()


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(token)
