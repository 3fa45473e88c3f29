"""Scores: the log-probability that a model gives each token of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError
from rwkv_cy.text.tokenizers import Tokenizer
from rwkv_cy.text.tokens import check_model, check_token_array

__all__ = ["ScoringModel", "as_tokens", "check_logits", "log_softmax", "logit_chunks", "score", "score_chunks"]

S = TypeVar("S")

#: Tokens whose logits are in memory at a time: 64 MB for a vocabulary of 65,536.
CHUNK_TOKENS = 256


class ScoringModel(Protocol[S]):
    """The part of a model's interface that scoring uses; `S` is the type of its state."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer, if it has one."""
        ...

    def forward(
        self,
        tokens: npt.NDArray[np.int64],
        state: S | None = None,
        *,
        all_logits: bool = False,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], S]:
        """Read `tokens`; with `all_logits`, return the logits after each, float [tokens, vocab_size], and the state."""
        ...


def as_tokens(model: ScoringModel[S], text: str | bytes | Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return `text` as token ids, int64 [tokens].

    Raises
    ------
    ConfigError
        If `text` is str or bytes and the model has no tokenizer.
    TokenizerError
        If the text cannot be encoded.
    TokenError
        If there are no tokens, or one is outside the vocabulary.
    """
    if not isinstance(text, (str, bytes)):
        return check_token_array(text, model.vocab_size)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ConfigError("text: the model has no tokenizer; give it one, or pass token ids")
    encoded = tokenizer.encode(text) if isinstance(text, str) else tokenizer.encode_bytes(text)
    return check_token_array(np.asarray(encoded, np.int64), model.vocab_size)


def score(
    model: ScoringModel[S],
    text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    state: S | None = None,
    logits: npt.NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Return the natural logarithm of the probability of each token, given the tokens before it.

    Parameters
    ----------
    model : ScoringModel
        For example a LanguageModel.
    text : str, bytes or sequence of int
        The text, or its tokens; at least one.
    state : optional
        State to start from; not modified. None starts from the initial state.
    logits : float [vocab_size], optional
        The logits that came with `state`; they predict the first token.
    num_threads : int, optional
        Threads to use.

    Returns
    -------
    numpy.ndarray
        float64 [tokens]. The first value is NaN without `logits`, since nothing predicts the first token: sum or
        average ``score(...)[1:]``.

    Raises
    ------
    ConfigError
        If `model` is not a model, `text` is str or bytes and it has no tokenizer, or `logits` have another shape.
    TokenError, TokenizerError, StateError, NumericalError
        As for encoding the text and running the model.
    """
    check_model("score", model, text)
    tokens = as_tokens(model, text)
    if logits is None:
        first = np.array([np.nan])
    else:
        first = _log_probabilities(check_logits(logits, model.vocab_size)[np.newaxis], tokens[:1])
    return np.concatenate([first, *score_chunks(model, tokens, state=state, num_threads=num_threads)])


def check_logits(logits: npt.NDArray[Any], vocab_size: int) -> npt.NDArray[Any]:
    """Return logits from a caller as an array; ConfigError if their shape is not (vocab_size,)."""
    if np.shape(logits) != (vocab_size,):
        raise ConfigError(f"logits: expected shape ({vocab_size},), got {np.shape(logits)}")
    return np.asarray(logits)


def score_chunks(
    model: ScoringModel[S],
    tokens: npt.NDArray[np.int64],
    *,
    state: S | None = None,
    num_threads: int | None = None,
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the log-probabilities of all tokens but the first, in chunks, in bounded memory.

    Parameters
    ----------
    model : ScoringModel
    tokens : int64 [tokens]
    state : optional
        State to start from; not modified.
    num_threads : int, optional
        Threads to use.
    """
    for logits, following in logit_chunks(model, tokens, state=state, num_threads=num_threads):
        yield _log_probabilities(logits, following)


def logit_chunks(
    model: ScoringModel[S],
    tokens: npt.NDArray[np.int64],
    *,
    state: S | None = None,
    num_threads: int | None = None,
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Yield the logits after all tokens but the last, in chunks, each with the tokens that followed.

    Parameters
    ----------
    model, tokens, state, num_threads
        As for :func:`score_chunks`.

    Yields
    ------
    logits : float [chunk, vocab_size]
    following : int64 [chunk]
    """
    for start in range(0, len(tokens) - 1, CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, len(tokens) - 1)
        # The first state may be the caller's; later ones are our own.
        logits, state = model.forward(
            tokens[start:end], state, all_logits=True, in_place=start > 0, num_threads=num_threads
        )
        yield logits, tokens[start + 1 : end + 1]


def log_softmax(row: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the logarithms of the probabilities of all tokens, float64 [vocab_size], for one row of logits."""
    shifted = row.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def _log_probabilities(logits: npt.NDArray[Any], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return log softmax(logits) at `tokens`, row by row."""
    return np.array([log_softmax(row)[token] for row, token in zip(logits, tokens, strict=True)])
