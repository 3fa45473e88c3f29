"""What an engine says about its requests: one event for each token, and one at the end of each text."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass
from rwkv_cy.text.logprobs import likeliest
from rwkv_cy.text.score import log_softmax

__all__ = ["FINISH_REASONS", "Event", "Timings", "TokenLogprobs", "Usage"]

#: Why a request ended: the first three as for a Sequence.
FINISH_REASONS = ("length", "stop_token", "stop_string", "grammar", "cancelled", "error")


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely the model takes a token to be, before temperature, penalties and constraints.

    Attributes
    ----------
    token : int
    logprob : float
        Natural logarithm of its probability.
    top : tuple of (int, float)
        The likeliest tokens in its place with their log-probabilities, in descending order.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, logits: npt.NDArray[Any], token: int, top: int) -> TokenLogprobs:
        """Return those of `token` and of the `top` likeliest, from logits [vocab_size]."""
        every = log_softmax(logits)
        best = likeliest(logits, top)
        return cls(token, float(every[token]), tuple((int(each), float(every[each])) for each in best))


@dataclass
class Usage:
    """Tokens of a request.

    Attributes
    ----------
    prompt_tokens : int
    completion_tokens : int
        Generated tokens, without a stop token.
    cached_tokens : int
        Tokens of the prompt that were not computed, since a state after them was in the cache.
    cache_write_tokens : int
        Tokens of the prompt that were computed for this request and are in the cache after it.
    drafted_tokens : int
        Tokens that speculation proposed.
    accepted_tokens : int
        Of these, how many became part of the text.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens of the prompt and of the completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Timings:
    """Seconds that a request took.

    Attributes
    ----------
    queued : float
        From :meth:`Engine.submit` until it got a slot.
    prefill : float
        From then until its first token.
    decode : float
        From the first token to the last.
    """

    queued: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0

    @property
    def first_token(self) -> float:
        """Seconds from the submission to the first token."""
        return self.queued + self.prefill


@dataclass(frozen=True)
class Event:
    """What a step did for a request: a token, progress of its prompt, or its end. The last event has a `finish_reason`.

    Attributes
    ----------
    request_id : str
    text : str
        The piece of text that became certain: whole characters, and nothing that may become a stop string.
    token : int or None
        The token that was generated. None for a stop token, and in an event without one.
    logprobs : TokenLogprobs or None
        Of the token, if the request wants them.
    read_tokens : int or None
        In an event about the prompt's progress: tokens of the prompt that are read so far, those from the cache
        included. Only if the request wants such events.
    finish_reason : str or None
        ``"length"``, ``"stop_token"``, ``"stop_string"``, ``"cancelled"`` or ``"error"`` in the last event of a
        request; None before.
    usage, timings : Usage, Timings or None
        In the last event.
    matched : str, int or None
        In the last event: the stop string or stop token that ended the text.
    state, logits : State, numpy.ndarray or None
        In the last event, if the request wants them: the state after the prompt and all tokens, and the logits of the
        next token. A later request with an empty prompt continues from both.
    error : Exception or None
        With the reason ``"error"``: what went wrong.
    """

    request_id: str
    text: str = ""
    token: int | None = None
    logprobs: TokenLogprobs | None = None
    read_tokens: int | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    matched: str | int | None = None
    state: State | None = None
    logits: npt.NDArray[np.floating[Any]] | None = None
    error: Exception | None = None
