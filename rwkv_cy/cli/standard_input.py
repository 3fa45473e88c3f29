"""Texts from files and from standard input, as bytes."""

from __future__ import annotations

import sys
from pathlib import Path

from rwkv_cy.errors import StorageError

__all__ = ["read_standard_input", "read_text"]


def read_standard_input(expected: str, remedy: str) -> bytes:
    """Return all of standard input.

    Raises
    ------
    StorageError
        If it is closed; the message says what was `expected`, and the `remedy`.
    """
    if sys.stdin is None:
        raise StorageError(f"standard input: expected {expected}, got a closed stream; {remedy}")
    return sys.stdin.buffer.read()


def read_text(path: Path) -> tuple[str, bytes]:
    """Return the name of a text for messages, and its bytes; ``-`` is standard input.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    from rwkv_cy.files.reading import os_errors

    if str(path) == "-":
        return "standard input", read_standard_input("a text", "name a file")
    with os_errors(path, "read"):
        return str(path), path.read_bytes()
