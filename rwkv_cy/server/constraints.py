"""``response_format``: which answers a request allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rwkv_cy.server.errors import invalid
from rwkv_cy.server.settings import Limits

__all__ = ["check_format"]

_KINDS = ("text", "json_object", "json_schema", "grammar")


def check_format(given: Mapping[str, Any] | None, limits: Limits, param: str = "response_format") -> None:
    """Raise ApiError if a request restricts its answer in a way that the server does not support."""
    if given is None:
        return
    kind = given.get("type")
    if kind not in _KINDS:
        raise invalid(f"{param}.type", f"expected one of {', '.join(_KINDS)}, got {str(kind)[:40]!r}")
    if kind == "text":
        return
    size = len(msgspec.json.encode(given))
    if size > limits.schema_bytes:
        raise invalid(param, f"expected at most {limits.schema_bytes} bytes, got {size}", "schema_too_large")
    raise invalid(param, f"{kind} needs a grammar engine, which this server does not have; use text", "not_supported")
