"""Checks of arguments from callers: a model, and token ids inside its vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, TokenError

__all__ = ["check_argument", "check_model", "check_token_array", "check_tokens", "require_model"]


def check_model(what: str, model: object, text: object) -> None:
    """Raise ConfigError, in the name of the function `what`, if its first argument is not a model."""
    if not hasattr(model, "forward"):
        raise ConfigError(
            f"{what}: expected a model and then a text, got {type(model).__name__} and {type(text).__name__}; "
            "rwkv_cy.load makes a model of a file"
        )


def check_argument(what: str, value: object, name: str, *, attribute: str, advice: str = "") -> None:
    """Raise ConfigError, in the name of the argument `what`, if a value is not a `name`: one that has the attribute."""
    if not hasattr(value, attribute):
        raise ConfigError(f"{what}: expected {name}, got {type(value).__name__}{advice and f'; {advice}'}")


def require_model(model: object, attribute: str = "forward") -> None:
    """Raise ConfigError if an argument `model` is not a model, as a path is not: it lacks what is used of one."""
    check_argument("model", model, "a model", attribute=attribute, advice="rwkv_cy.load makes a model of a file")


def check_tokens(tokens: Iterable[int], vocab_size: int, what: str = "tokens") -> list[int]:
    """Return `tokens` as a list of plain ints; an error calls them `what`.

    Raises
    ------
    TokenError
        If one is not an integer (True and 1.0 are not), or is outside ``0 .. vocab_size - 1``.
    """
    if type(tokens) is list and set(map(type, tokens)) == {int} and min(tokens) >= 0 and max(tokens) < vocab_size:
        return tokens.copy()  # as a tokenizer returns them: ten times as fast
    _refuse_texts(tokens, what)
    result = []
    for position, token in enumerate(tokens):
        if isinstance(token, (bool, np.bool_)):  # before NumPy 2.3, index() accepts the latter with a warning
            raise TokenError(f"{what}[{position}]: expected an integer, got {token!r}")
        try:
            number = index(token)
        except TypeError:
            raise TokenError(f"{what}[{position}]: expected an integer, got {token!r}") from None
        if not 0 <= number < vocab_size:
            raise TokenError(f"{what}[{position}]: expected an id from 0 to {vocab_size - 1}, got {number}")
        result.append(number)
    return result


def _refuse_texts(tokens: Any, what: str) -> None:
    """Raise TokenError if `tokens` are several texts."""
    if isinstance(tokens, (list, tuple)) and len(tokens) > 1 and all(isinstance(one, (str, bytes)) for one in tokens):
        raise TokenError(f"{what}: expected token ids, got several texts; pass one text, or one call for each of them")


def _described(ids: npt.NDArray[Any]) -> str:
    """Return what the elements of an array without integers are: of objects, the type of the first other one."""
    if ids.dtype.kind != "O":
        return str(ids.dtype)
    kinds = (type(one).__name__ for one in ids if not isinstance(one, (int, np.integer)))
    return next(kinds, "one that is larger than any id")


def check_token_array(tokens: Any, vocab_size: int, what: str = "tokens") -> npt.NDArray[np.int64]:
    """Return one token, or a flat sequence of at least one, as int64 [tokens]; an error calls them `what`.

    Raises
    ------
    TokenError
        If `tokens` is empty, or one is not an integer in ``0 .. vocab_size - 1``.
    """
    # Fast path for one token, as in decode.
    if type(tokens) is int and 0 <= tokens < vocab_size:
        return np.array([tokens], np.int64)
    try:
        ids = np.atleast_1d(np.asarray(tokens))
    except (ValueError, OverflowError) as error:
        raise TokenError(f"{what}: expected an integer or a flat sequence of them, got {error}") from None
    if ids.ndim == 1 and ids.size == 0:
        raise TokenError(f"{what} is empty; give at least one")
    if ids.ndim != 1:
        raise TokenError(f"{what}: expected an integer or a flat sequence of them, got shape {ids.shape}")
    if isinstance(tokens, (str, bytes)):
        raise TokenError(
            f"{what}: expected integers, got {type(tokens).__name__}; encode it first with model.tokenizer.encode"
        )
    _refuse_texts(tokens, what)
    if ids.dtype.kind not in "iu":
        raise TokenError(f"{what}: expected integers, got {_described(ids)}")
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        at = int(wrong.argmax())
        raise TokenError(f"{what}[{at}]: expected an id from 0 to {vocab_size - 1}, got {ids[at]}")
    return np.require(ids, np.int64, ["C", "A"])
