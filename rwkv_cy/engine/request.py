"""A request for text: what to continue, how to choose tokens, and what to return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass, field
from rwkv_cy.text.sampling import LogitsProcessor, SamplingOptions
from rwkv_cy.text.sampling.options import check_natural

__all__ = ["Request"]

#: Likeliest tokens that a request may have for each token.
_MOST_LOGPROBS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A text to continue. The engine does not change it, so that it may be submitted several times.

    Attributes
    ----------
    prompt : str, bytes or sequence of int
        Text, bytes or token ids; empty as for :func:`rwkv_cy.text.generate`.
    options : SamplingOptions
        How tokens are chosen.
    max_tokens : int or None
        Upper limit of generated tokens; None for no limit.
    stop : sequence of str
        The text ends before the first complete one of these.
    stop_tokens : sequence of int or None
        The text ends before the first of these. None stands for the tokenizer's end-of-text token, if it has one.
    seed : int or None
        The same seed gives the same text. None gives a different text each time.
    logprobs : int or None
        Return the log-probability of each token, and of so many of the likeliest tokens in its place.
    constraints : sequence of LogitsProcessor
        Change the logits before each token is chosen; called with the tokens generated so far, one call a token. They
        keep state, so that a request with constraints may only be submitted once.
    state : State or None
        To begin from, in place of the initial state. It must not be modified before the last event.
    logits : float [vocab_size] or None
        The logits that came with `state`; only for an empty prompt.
    return_state : bool
        Return the state after the text, and the logits of the next token.
    report_progress : bool
        Return events while the prompt is read.
    cache : bool
        Use the engine's cache of states, if it has one: begin from a known state, and leave states there.
    cache_key : str
        Name of a partition of the cache: requests of other partitions share nothing with this one.
    breakpoints, message_ends : sequence of int
        Places in the prompt where its state is stored, in tokens from its beginning: those that the caller names, and
        the ends of messages.
    prediction : str, bytes or sequence of int
        What the text will be in large part, such as the code before an edit: what is right of it takes less time.
    speculate : bool
        Let the engine draft tokens; the text is the same.
    id : str
        Name of the request in events, unique among those in progress; the engine makes one if it is empty.

    Raises
    ------
    GenerationError
        If a number is out of range.
    """

    prompt: str | bytes | Sequence[int] = ""
    options: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = 256
    stop: Sequence[str] = ()
    stop_tokens: Sequence[int] | None = None
    seed: int | None = None
    logprobs: int | None = None
    constraints: Sequence[LogitsProcessor] = ()
    state: State | None = None
    logits: npt.NDArray[np.floating[Any]] | None = None
    return_state: bool = False
    report_progress: bool = False
    cache: bool = True
    cache_key: str = ""
    breakpoints: Sequence[int] = ()
    message_ends: Sequence[int] = ()
    prediction: str | bytes | Sequence[int] = ""
    speculate: bool = True
    id: str = ""

    def __post_init__(self) -> None:
        if self.logprobs is not None:
            check_natural("logprobs", self.logprobs, _MOST_LOGPROBS)
        for name in ("id", "cache_key"):
            if not isinstance(getattr(self, name), str):
                raise GenerationError(f"{name}: expected a str, got {getattr(self, name)!r}")
        for name in ("breakpoints", "message_ends"):
            for place in getattr(self, name):
                check_natural(name, place)
