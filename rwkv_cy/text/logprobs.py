"""Log-probabilities of a text token by token, with the rank of each and the likeliest tokens in its place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass, fields
from rwkv_cy.text.score import ScoringModel, as_tokens, check_logits, log_softmax, logit_chunks
from rwkv_cy.text.tokens import check_model

__all__ = ["Logprobs", "likeliest", "logprob_chunks", "logprobs"]

S = TypeVar("S")


@dataclass(frozen=True, eq=False)
class Logprobs:
    """How likely a model takes each token of a text to be, given the tokens before it.

    Attributes
    ----------
    tokens : int64 [tokens]
    logprobs : float64 [tokens]
        Natural logarithm of the probability of each token; NaN where nothing predicts it.
    ranks : int64 [tokens]
        1 for the likeliest token, 2 for the next; 0 where nothing predicts it.
    top_tokens : int64 [tokens, top]
        The likeliest tokens in the place of each, in descending order; equally likely ones in that of their ids. -1
        where nothing predicts them.
    top_logprobs : float64 [tokens, top]
        Their log-probabilities; NaN where nothing predicts them.
    """

    tokens: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]
    top_tokens: npt.NDArray[np.int64]
    top_logprobs: npt.NDArray[np.float64]

    @property
    def predicted(self) -> int:
        """Number of tokens that something predicts."""
        return int(np.count_nonzero(self.ranks))

    @property
    def total(self) -> float:
        """Sum of the log-probabilities of the predicted tokens."""
        return float(self.logprobs[self.ranks > 0].sum())

    @property
    def perplexity(self) -> float:
        """exp(-total / predicted): inf where that is too large for a float, NaN if nothing is predicted."""
        if not self.predicted:
            return math.nan
        try:
            return math.exp(-self.total / self.predicted)
        except OverflowError:
            return math.inf


def logprobs(
    model: ScoringModel[S],
    text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    top: int = 0,
    state: S | None = None,
    logits: npt.NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> Logprobs:
    """Return the log-probability and the rank of each token of a text, and the likeliest tokens in its place.

    Parameters
    ----------
    model : ScoringModel
        For example a LanguageModel.
    text : str, bytes or sequence of int
        The text, or its tokens; at least one.
    top : int, default 0
        How many of the likeliest tokens to return for each place.
    state : optional
        State to start from; not modified. None starts from the initial state.
    logits : float [vocab_size], optional
        The logits that came with `state`; they predict the first token.
    num_threads : int, optional
        Threads to use.

    Returns
    -------
    Logprobs

    Raises
    ------
    ConfigError
        If `model` is not a model, `text` is str or bytes and it has no tokenizer, `top` is out of range, or `logits`
        have another shape.
    TokenError, TokenizerError, StateError, NumericalError
        As for encoding the text and running the model.
    """
    check_model("logprobs", model, text)
    tokens = as_tokens(model, text)
    chunks = logprob_chunks(model, tokens, top=top, state=state, logits=logits, num_threads=num_threads)
    parts = list(chunks)
    return Logprobs(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Logprobs)))


def logprob_chunks(
    model: ScoringModel[S],
    tokens: npt.NDArray[np.int64],
    *,
    top: int = 0,
    state: S | None = None,
    logits: npt.NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> Iterator[Logprobs]:
    """Yield what :func:`logprobs` returns in chunks, in bounded memory: that of the first token, then of the others.

    Parameters
    ----------
    model : ScoringModel
    tokens : int64 [tokens]
        At least one.
    top, state, logits, num_threads
        As for :func:`logprobs`.

    Raises
    ------
    ConfigError
        If `top` is out of range, or `logits` have another shape.
    """
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or not 0 <= top <= model.vocab_size:
        raise ConfigError(f"top: expected 0 to {model.vocab_size} tokens, got {top!r}")
    if logits is None:
        yield Logprobs(
            tokens[:1],
            np.full(1, np.nan),
            np.zeros(1, np.int64),
            np.full((1, top), -1, np.int64),
            np.full((1, top), np.nan),
        )
    else:
        yield _of_rows(check_logits(logits, model.vocab_size)[np.newaxis], tokens[:1], top)
    for rows, following in logit_chunks(model, tokens, state=state, num_threads=num_threads):
        yield _of_rows(rows, following, top)


def _of_rows(rows: npt.NDArray[Any], tokens: npt.NDArray[np.int64], top: int) -> Logprobs:
    """Look `tokens` up in rows of logits, one row at a time: a row may be long."""
    count = len(tokens)
    result = Logprobs(
        tokens,
        np.empty(count),
        np.empty(count, np.int64),
        np.empty((count, top), np.int64),
        np.empty((count, top)),
    )
    for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        every = log_softmax(row)
        result.logprobs[place] = every[token]
        result.ranks[place] = 1 + np.count_nonzero(row > row[token])
        result.top_tokens[place] = best = likeliest(row, top)
        result.top_logprobs[place] = every[best]
    return result


def likeliest(row: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the `count` tokens with the largest logits, in descending order, and of equal ones the first."""
    if count == 0:
        return np.empty(0, np.int64)
    least = np.partition(row, -count)[-count]
    candidates = np.flatnonzero(row >= least)
    return candidates[np.argsort(-row[candidates], kind="stable")][:count]
