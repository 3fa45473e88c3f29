"""Hidden states after ln_out: those of every token, and vectors of texts, which are pooled from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, NumericalError
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.model.batching import batches, named, run_chunks
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.not_finite import HIDDEN, Origin
from rwkv_cy.text.score import ScoringModel, as_tokens

__all__ = ["POOLINGS", "HiddenStates", "check_pooling", "texts_as_tokens", "unit"]

#: How the hidden states of a text become one vector.
POOLINGS = ("mean", "last")


def check_pooling(pooling: str) -> None:
    """Raise ConfigError if `pooling` is unknown."""
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling: expected one of {', '.join(POOLINGS)}, got {pooling!r}")


def texts_as_tokens(model: ScoringModel[Any], text: Any) -> tuple[list[npt.NDArray[np.int64]], bool]:
    """Return the tokens of a text, or of each of several, and whether it is one.

    Parameters
    ----------
    model : ScoringModel
    text : str, bytes or sequence of int, or a sequence of them

    Raises
    ------
    ConfigError, TokenError, TokenizerError
        As of :func:`rwkv_cy.text.score.as_tokens`; of several texts, the message says which.
    """
    if isinstance(text, (str, bytes)):
        return [as_tokens(model, text)], True
    given = list(text)
    if given and isinstance(given[0], (int, np.integer)):
        return [as_tokens(model, text)], True
    return [named(i, partial(as_tokens, model), each) for i, each in enumerate(given)], False


def unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return vectors [..., width] scaled to Euclidean length 1; those of length 0 stay as they are."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(vectors.dtype)


class HiddenStates:
    """The part of a language model that the head's matrix follows: embedding, layers and the last LayerNorm.

    Parameters
    ----------
    embedding : Embedding
    encoder : Model
    head : Head
        Its LayerNorm is ``ln_out``.
    origin : Origin
        Describes where NaN and Inf come from.
    """

    def __init__(self, embedding: Embedding, encoder: Model, head: Head, origin: Origin) -> None:
        self._embedding = embedding
        self._encoder = encoder
        self._head = head
        self._origin = origin

    def of_tokens(
        self, ids: npt.NDArray[np.int64], before: npt.NDArray[Any], after: npt.NDArray[Any], num_threads: int
    ) -> npt.NDArray[Any]:
        """Run a sequence; return the hidden state of each token, [tokens, d_model].

        Parameters
        ----------
        ids : int64 [tokens]
        before, after : numpy.ndarray
            The state to read, and the one to write.
        num_threads : int

        Raises
        ------
        NumericalError
            If one is not finite.
        """
        result = np.empty((len(ids), self._encoder.config.d_model), before.dtype)
        finite, done = True, 0
        for _, _, xs in run_chunks(self._embedding, self._encoder, [ids], [before], [after], num_threads):
            finite &= self._head.normalize(xs, result[done : done + len(xs)], num_threads)
            done += len(xs)
        if not finite:
            raise NumericalError(self._origin.describe(ids, before, after, num_threads, HIDDEN))
        return result

    def of_texts(self, ids: Sequence[npt.NDArray[np.int64]], pooling: str, num_threads: int) -> npt.NDArray[Any]:
        """Run sequences from the initial state, several at once; return the vector of each, [sequences, d_model].

        Parameters
        ----------
        ids : sequence of int64 [tokens]
            At least one token each.
        pooling : {"mean", "last"}
        num_threads : int

        Raises
        ------
        NumericalError
            If one is not finite; the message says which.
        """
        result = np.empty((len(ids), self._encoder.config.d_model), self._encoder.numbers(None).dtype)
        for start, end in batches(ids):
            result[start:end] = self._batch(ids[start:end], start, pooling, num_threads)
        return result

    def _batch(
        self, ids: Sequence[npt.NDArray[np.int64]], first: int, pooling: str, num_threads: int
    ) -> npt.NDArray[np.float64]:
        """Return the vectors of sequences that run together; `first` is the number of the first one in messages."""
        encoder, last = self._encoder, pooling == "last"
        before = encoder.numbers(None)
        after = [encoder.state_after(None, in_place=False).data for _ in ids]
        vectors = np.zeros((len(ids), encoder.config.d_model))
        starts_from = [before] * len(ids)
        chunks = run_chunks(self._embedding, encoder, ids, starts_from, after, num_threads, last_only=last)
        for active, starts, xs in chunks:
            hidden = np.empty_like(xs)
            self._head.normalize(xs, hidden, num_threads)
            for i, begin, end in zip(active, starts[:-1], starts[1:], strict=True):
                own = hidden[end - 1 : end] if last else hidden[begin:end]
                if not np.isfinite(own).all():
                    where = self._origin.describe(ids[i], before, after[i], num_threads, HIDDEN)
                    raise NumericalError(f"sequence {first + i}: {where}")
                _pool(vectors[i], own, last)
        return vectors if last else vectors / [[len(sequence)] for sequence in ids]


def _pool(vector: npt.NDArray[np.float64], hidden: npt.NDArray[Any], last: bool) -> None:
    """Add the hidden states of a chunk to the sum of a text; with `last`, replace it by the last of them."""
    if last:
        vector[...] = hidden[-1]
        return
    # Row after row, so that the sum does not depend on the chunks.
    for row in hidden:
        vector += row
