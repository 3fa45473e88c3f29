"""Several sequences at once: which run together, and their way through the layers in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, StateError, TokenError, TokenizerError
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.model.encoder import CHUNK_TOKENS, Model
from rwkv_cy.model.state import State

__all__ = ["batches", "last_outputs", "named", "run_chunks", "states_for"]

_T = TypeVar("_T")

#: Each sequence of a batch has a state, which may take tens of megabytes.
_MOST_SEQUENCES = 16


def run_chunks(
    embedding: Embedding,
    encoder: Model,
    ids: Sequence[npt.NDArray[np.int64]],
    before: Sequence[npt.NDArray[Any]],
    after: Sequence[npt.NDArray[Any]],
    num_threads: int,
    *,
    last_only: bool = False,
) -> Iterator[tuple[list[int], list[int], npt.NDArray[Any]]]:
    """Run sequences through embedding and layers, in chunks with a part of each.

    Parameters
    ----------
    embedding : Embedding
    encoder : Model
    ids : sequence of int64 [tokens]
        The tokens of each sequence, at least one.
    before, after : sequence of numpy.ndarray
        The state of each sequence before and after, as for :meth:`Model.run`.
    num_threads : int
        Threads to use.
    last_only : bool, default False
        Compute only the last row of each sequence in a chunk; the other rows are undefined.

    Yields
    ------
    active : list of int
        The sequences in the chunk.
    starts : list of int
        The first row of each, then the number of rows.
    xs : numpy.ndarray
        Shape (rows, d_model): the outputs of the last layer.
    """
    done = 0
    while active := [i for i in range(len(ids)) if len(ids[i]) > done]:
        share = max(1, CHUNK_TOKENS // len(active))
        parts = [ids[i][done : done + share] for i in active]
        starts = [0, *accumulate(len(part) for part in parts)]
        chunk = np.concatenate(parts)
        xs = embedding.rows(chunk)
        reads = [after[i] if done else before[i] for i in active]
        encoder.run(xs, reads, [after[i] for i in active], starts, num_threads, last_only=last_only, ids=chunk)
        yield active, starts, xs
        done += share


def last_outputs(
    embedding: Embedding,
    encoder: Model,
    ids: Sequence[npt.NDArray[np.int64]],
    before: Sequence[npt.NDArray[Any]],
    after: Sequence[npt.NDArray[Any]],
    num_threads: int,
) -> npt.NDArray[Any]:
    """Run sequences as :func:`run_chunks` does; return the last output of each, [sequences, d_model]."""
    last = np.empty((len(ids), encoder.config.d_model), after[0].dtype)
    for active, starts, xs in run_chunks(embedding, encoder, ids, before, after, num_threads, last_only=True):
        for i, end in zip(active, starts[1:], strict=True):
            last[i] = xs[end - 1]
    return last


def batches(ids: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[int, int]]:
    """Yield ranges of neighbouring sequences that run together: few, and no more tokens than a chunk has.

    A sequence that is longer than a chunk is a range of its own.
    """
    start, total = 0, 0
    for end, sequence in enumerate(ids):
        if end > start and (total + len(sequence) > CHUNK_TOKENS or end - start == _MOST_SEQUENCES):
            yield start, end
            start, total = end, 0
        total += len(sequence)
    if len(ids) > start:
        yield start, len(ids)


def named(sequence: int, function: Callable[[Any], _T], argument: Any) -> _T:
    """Call `function`, and name the sequence in its errors."""
    try:
        return function(argument)
    except (TokenError, TokenizerError, StateError) as error:
        raise type(error)(f"sequence {sequence}: {error}") from None


def states_for(sequences: Sequence[Any], states: Sequence[State | None] | None, in_place: bool) -> list[State | None]:
    """Return the state of each sequence of a batch, as :meth:`LanguageModel.forward_batch` takes them.

    Raises
    ------
    ConfigError
        If there are not as many as sequences, or two sequences share one in place.
    """
    given: list[State | None] = [None] * len(sequences) if states is None else list(states)
    if len(given) != len(sequences):
        raise ConfigError(f"forward_batch: expected {len(sequences)} states, one per sequence, got {len(given)}")
    present = [state.data.ctypes.data for state in given if isinstance(state, State)]
    if in_place and len(set(present)) != len(present):
        raise ConfigError("forward_batch: expected a state of its own for each sequence in place, got one twice")
    return given
