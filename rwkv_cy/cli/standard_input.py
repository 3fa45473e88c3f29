"""Standard input, as bytes."""

from __future__ import annotations

import sys

from rwkv_cy.errors import StorageError

__all__ = ["read_standard_input"]


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
