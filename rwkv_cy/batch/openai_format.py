"""OpenAI's batch format: the envelope of a request, and the lines of output and error files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = ["CHAT", "COMPLETIONS", "EMBEDDINGS", "check_envelope", "failure", "response"]

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
URLS = (CHAT, COMPLETIONS, EMBEDDINGS)


def check_envelope(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the endpoint of a request, and what is wrong with its envelope: empty if nothing is."""
    url = row.get("url")
    if url not in URLS:
        return COMPLETIONS, f"url: expected one of {', '.join(URLS)}, got {str(url)[:80]!r}"
    if row.get("method", "POST") != "POST":
        return url, f"method: expected POST, got {str(row['method'])[:80]!r}"
    if not isinstance(row.get("body"), Mapping):
        return url, f"body: expected an object, got {type(row.get('body')).__name__}"
    return url, ""


def response(name: str | int, place: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of the output file for a request that was answered.

    Parameters
    ----------
    name : str or int
        Its ``custom_id``.
    place : int
        Its number in the input: the identifiers depend on both, and are the same in every run.
    body : mapping
        The response object of the endpoint.
    """
    return {
        "id": f"batch_req_{_digest(name, place)}",
        "custom_id": name,
        "response": {"status_code": 200, "request_id": f"req_{_digest(name, place)}", "body": dict(body)},
        "error": None,
    }


def failure(name: str | int | None, place: int, reason: str) -> dict[str, Any]:
    """Return the line of the error file for a request without an answer."""
    return {
        "id": f"batch_req_{_digest(name, place)}",
        "custom_id": name,
        "response": None,
        "error": {"code": "invalid_request", "message": reason, "line": place},
    }


def object_id(prefix: str, name: str | int, place: int) -> str:
    """Return the identifier of a response object."""
    return f"{prefix}{_digest(name, place)}"


def _digest(name: str | int | None, place: int) -> str:
    return hashlib.sha256(f"{place} {name!r}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
