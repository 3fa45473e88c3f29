"""JSON in a room of fixed size: padded with spaces, so that its length can be known before its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwkv_cy.errors import SpecError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.storage.schema import PAGE

__all__ = ["pack_json"]


def pack_json(value: dict[str, Any], what: str, room: int | None = None, limit: int | None = None) -> bytes:
    """Return `value` as JSON, padded with spaces to `room` bytes, or to whole pages of which `limit` bytes may be.

    Raises
    ------
    SpecError
        If it does not fit, or would not be read back as it is.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
        if parse_object(Path(what), "JSON", text) != value:
            raise ValueError("it would be read back as something else")
    except (TypeError, ValueError) as error:
        raise SpecError(f"{what}: expected text, finite numbers and tables of them, got otherwise ({error})") from error
    if room is None:
        room = -(-len(text) // PAGE) * PAGE
    most = room if limit is None else min(room, limit)
    if len(text) > most:
        raise SpecError(f"{what}: expected at most {most} bytes, got {len(text)}; shorten it")
    return text.ljust(room)
