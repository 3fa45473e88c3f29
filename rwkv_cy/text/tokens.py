"""Token ids from callers: integers inside the vocabulary, or an error that names the culprit."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index

import numpy as np

from rwkv_cy.errors import TokenError

__all__ = ["check_tokens"]


def check_tokens(tokens: Iterable[int], vocab_size: int, what: str = "token") -> list[int]:
    """Return `tokens` as a list of plain ints; an error calls them `what`.

    Raises
    ------
    TokenError
        If one is no integer (True and 1.0 are none), or lies outside ``0 .. vocab_size - 1``.
    """
    result = []
    for position, token in enumerate(tokens):
        if isinstance(token, (bool, np.bool_)):  # before NumPy 2.3, index() takes the latter with a warning
            raise TokenError(f"{what} {position}: expected an integer, got {token!r}")
        try:
            number = index(token)
        except TypeError:
            raise TokenError(f"{what} {position}: expected an integer, got {token!r}") from None
        if not 0 <= number < vocab_size:
            raise TokenError(f"{what} {position}: expected an id from 0 to {vocab_size - 1}, got {number}")
        result.append(number)
    return result
