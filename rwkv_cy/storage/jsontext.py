"""JSON in a room of fixed size: padded with spaces, so that its length can be known before its content."""

from __future__ import annotations

import json

from rwkv_cy.errors import SpecError
from rwkv_cy.storage.schema import PAGE

__all__ = ["pack_json", "pages"]


def pages(size: int) -> int:
    """Round a number of bytes up to whole pages."""
    return -(-size // PAGE) * PAGE


def pack_json(value: object, what: str, room: int | None = None) -> bytes:
    """Return `value` as JSON, padded with spaces to `room` bytes, or to whole pages.

    Raises
    ------
    SpecError
        If it holds what JSON cannot say, or does not fit.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError) as error:
        raise SpecError(f"{what}: expected text, finite numbers and tables of them, got otherwise ({error})") from error
    if room is None:
        room = pages(len(text))
    if len(text) > room:
        raise SpecError(f"{what}: expected at most {room} bytes, got {len(text)}; shorten it")
    return text.ljust(room)
