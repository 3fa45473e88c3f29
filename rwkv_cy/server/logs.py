"""Logs of a server: one line of JSON for each request, without prompts, answers or keys."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

__all__ = ["Log"]


class Log:
    """Writes lines of JSON.

    Parameters
    ----------
    stream : text file, optional
        Standard error by default.
    enabled : bool, default True
        Whether requests are logged; errors always are.
    """

    def __init__(self, stream: TextIO | None = None, *, enabled: bool = True) -> None:
        self._stream = stream
        self._enabled = enabled
        self._lock = threading.Lock()

    def request(self, **fields: Any) -> None:
        """Log a request that has ended."""
        if self._enabled:
            self._write("request", fields)

    def error(self, **fields: Any) -> None:
        """Log an error of the server."""
        self._write("error", fields)

    def event(self, name: str, **fields: Any) -> None:
        """Log that the server started or ended."""
        if self._enabled:
            self._write(name, fields)

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = msgspec.json.encode({"time": time, "event": name, **fields}).decode()
        stream = self._stream if self._stream is not None else sys.stderr
        with self._lock:
            try:
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):  # nobody reads it any more; the server goes on
                self._enabled = False
