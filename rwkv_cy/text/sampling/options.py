"""Sampling options, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from operator import index
from typing import TypedDict

import numpy as np

from rwkv_cy.errors import GenerationError
from rwkv_cy.records import dataclass, field

__all__ = ["MAX_COUNT", "ORDERS", "SamplingKeywords", "SamplingOptions", "check_natural"]

#: When the temperature is applied: before the candidates are chosen, or after, as in the ``rwkv`` package.
ORDERS = ("temperature-first", "rwkv")
#: Largest change of a logit: more than any use needs, and far from float32 overflow.
MAX_SHIFT = 1e6
#: Limit of options that count tokens.
MAX_COUNT = (1 << 63) - 1


class SamplingKeywords(TypedDict, total=False):
    """The fields of SamplingOptions, as keyword arguments."""

    temperature: float
    top_p: float
    top_k: int
    presence_penalty: float
    frequency_penalty: float
    penalty_decay: float
    penalty_free_tokens: Collection[int] | None
    repetition_penalty: float
    repetition_window: int
    no_repeat_ngram: int
    logit_bias: Mapping[int, float]
    banned_tokens: Collection[int]
    order: str


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is chosen. docs/sampling.md compares this with other programs.

    Attributes
    ----------
    temperature : float
        0 is greedy: the likeliest token, the lowest id among equals. Above 1 flattens the distribution.
    top_p : float
        Nucleus threshold: keep the likeliest tokens whose probabilities sum to this, 0 to 1. 1 keeps all; 0 keeps
        the likeliest one (with ``order="rwkv"``, all that are equally likely).
    top_k : int
        Keep this many of the likeliest tokens; 0 keeps all.
    presence_penalty, frequency_penalty : float
        Subtracted from the logit of a token that was generated before: presence + frequency x its count.
    penalty_decay : float
        Every count is multiplied by this at each token, 0 to 1.
    penalty_free_tokens : collection of int, optional
        Tokens whose count stays 0 and which get no penalty. With ``order="rwkv"`` they get the presence penalty, as
        in the ``rwkv`` package.
    repetition_penalty : float
        Divides positive logits, and multiplies negative ones, of the tokens of the last `repetition_window`;
        1 is off (N. S. Keskar et al., "CTRL", 2019, equation in section 4.1).
    repetition_window : int
        How many of the last tokens `repetition_penalty` applies to; 0 for all.
    no_repeat_ngram : int
        No sequence of this many tokens is generated twice; 0 is off.
    logit_bias : mapping of int to float
        Added to the logits of these tokens, before anything else.
    banned_tokens : collection of int
        Never chosen.
    order : str
        ``"temperature-first"``, or ``"rwkv"`` for the candidates and probabilities of the ``rwkv`` package.

    Raises
    ------
    GenerationError
        If a value is of the wrong type or out of its range.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 0.996
    penalty_free_tokens: Collection[int] | None = None
    repetition_penalty: float = 1.0
    repetition_window: int = 0
    no_repeat_ngram: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    banned_tokens: Collection[int] = frozenset()
    order: str = ORDERS[0]

    def __post_init__(self) -> None:
        _check_real("temperature", self.temperature, 0.0)
        _check_real("top_p", self.top_p, 0.0, 1.0)
        _check_real("presence_penalty", self.presence_penalty, -MAX_SHIFT, MAX_SHIFT)
        _check_real("frequency_penalty", self.frequency_penalty, -MAX_SHIFT, MAX_SHIFT)
        _check_real("penalty_decay", self.penalty_decay, 0.0, 1.0)
        _check_real("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        for name in ("top_k", "repetition_window", "no_repeat_ngram"):
            check_natural(name, getattr(self, name), MAX_COUNT)
        for name in ("penalty_free_tokens", "banned_tokens"):
            if getattr(self, name) is None and name == "penalty_free_tokens":
                continue
            object.__setattr__(self, name, frozenset(_token_ids(name, getattr(self, name))))
        if not isinstance(self.logit_bias, Mapping):
            raise GenerationError(f"logit_bias: expected a mapping of ids to numbers, got {self.logit_bias!r}")
        bias = dict(zip(_token_ids("logit_bias", self.logit_bias), self.logit_bias.values(), strict=True))
        for token, value in bias.items():
            _check_real(f"logit_bias of token {token}", value, -MAX_SHIFT, MAX_SHIFT)
        object.__setattr__(self, "logit_bias", bias)
        if self.order not in ORDERS:
            raise GenerationError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")


def _check_real(name: str, value: object, low: float, high: float = math.inf) -> None:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not low <= value <= high or value == math.inf:  # type: ignore[operator]
        expected = f"a number from {low:g} to {high:g}" if high < math.inf else "a non-negative number"
        raise GenerationError(f"{name}: expected {expected}, got {value!r}")


def check_natural(name: str, value: object, high: int | None = None) -> None:
    """Check that `value` is an integer from 0 to `high`, if that is given; GenerationError if not."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise GenerationError(f"{name}: expected a non-negative integer, got {value!r}")
    if high is not None and value > high:
        raise GenerationError(f"{name}: expected an integer from 0 to {high}, got a larger one")


def _token_ids(name: str, tokens: Iterable[int]) -> list[int]:
    try:
        ids = [-1 if isinstance(token, (bool, np.bool_)) else index(token) for token in tokens]
    except TypeError:
        raise GenerationError(f"{name}: expected token ids, got {tokens!r}") from None
    if any(token < 0 for token in ids):
        raise GenerationError(f"{name}: expected token ids from 0, got {tokens!r}")
    return ids
