"""JSON in a room of fixed size: written padded with spaces, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.storage.schema import PAGE

__all__ = ["pack_json", "pages", "unpack_json"]


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


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def unpack_json(raw: bytes, path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises
    ------
    FormatError
        If there is none.
    """
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {what}: expected JSON, got otherwise ({error}); convert the model again") from error
    if not isinstance(value, dict):
        raise FormatError(
            f"{path}: {what}: expected a JSON object, got {type(value).__name__}; convert the model again"
        )
    return value
