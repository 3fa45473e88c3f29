"""Vectors of a layer that are curves over its channels or heads: what they mean, for pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Curve", "Role", "as_stored", "doubly_exponential", "one_minus", "sigmoid"]

Array: TypeAlias = "npt.NDArray[Any]"
Role = Literal["decay", "bonus", "mix", "rate", "other"]


def as_stored(values: Array) -> Array:
    """Return the numbers as the file has them."""
    return values


def doubly_exponential(values: Array) -> Array:
    """Return exp(-exp(w)): the decay of which checkpoints hold w."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(-np.exp(values)))


def sigmoid(values: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)))


def one_minus(values: Array) -> Array:
    """Return 1 - x: the share of the previous token where checkpoints hold that of the current one."""
    return np.asarray(1 - values)


@dataclass(frozen=True)
class Curve:
    """A vector that every layer has.

    Attributes
    ----------
    name : str
        Name of the parameter within its layer: ``"att.time_decay"``.
    role : {"decay", "bonus", "mix", "rate", "other"}
        ``"decay"``: the factor of a channel's state at each token. ``"bonus"``: the weight of the current token.
        ``"mix"``: the share of the previous token in an input (token shift). ``"rate"``: other factors of
        a channel. ``"other"``: any other vector.
    meaning : str
        What the displayed numbers are, in a few words.
    transform : callable, optional
        Returns the displayed numbers of those in the file: float64, any shape.
    element : str, optional
        What each number belongs to: a channel, or a head.
    """

    name: str
    role: Role
    meaning: str
    transform: Callable[[Array], Array] = as_stored
    element: str = "channel"
