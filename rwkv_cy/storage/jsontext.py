"""JSON of fixed capacity: padded with spaces, so that its length is known before its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkv_cy.errors import SpecError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.storage.schema import PAGE

__all__ = ["pack_json"]


def pack_json(value: dict[str, Any], what: str, capacity: int | None = None, limit: int | None = None) -> bytes:
    """Return `value` as JSON, padded with spaces to `capacity` bytes, or to whole pages; it may have `limit` bytes.

    Raises
    ------
    SpecError
        If it does not fit, or would not be the same when read back.
    """
    import json  # not needed for reading

    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
        if parse_object(Path(what), "JSON", text) != value:
            raise ValueError("it would not be the same when read back")
    except (TypeError, ValueError) as error:
        raise SpecError(f"{what}: expected text, finite numbers and tables of them, got otherwise ({error})") from error
    if capacity is None:
        capacity = -(-len(text) // PAGE) * PAGE
    most = capacity if limit is None else min(capacity, limit)
    if len(text) > most:
        raise SpecError(f"{what}: expected at most {most} bytes, got {len(text)}; shorten it")
    return text.ljust(capacity)
