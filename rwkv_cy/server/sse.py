"""Server-sent events: one frame for each object, exact to the byte."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["COMMENT", "DONE", "HEADERS", "frame"]

#: The end of a stream of OpenAI's API.
DONE = b"data: [DONE]\n\n"
#: Keeps a connection alive; clients skip it.
COMMENT = b": waiting\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def frame(value: Any, event: str | None = None) -> bytes:
    """Return a frame with `value` as JSON, which is one line; `event` is its name."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"
