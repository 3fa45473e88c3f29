"""Log-likelihoods of continuations in batches: what contexts have in common is read once, and states are forked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.state_cache.radix_tree import Node, RadixTree
from rwkv_cy.errors import ConfigError, NumericalError
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.passes import Part
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass
from rwkv_cy.text.score import log_softmax
from rwkv_cy.text.tokens import check_token_array, require_model

__all__ = ["Likelihood", "loglikelihoods", "read_contexts"]

#: Continuations that run in a pass, each with a state, and the rows of logits in memory.
_MOST_TEXTS, _MOST_ROWS = 16, 256


@dataclass(frozen=True)
class Likelihood:
    """How likely a model takes a continuation to be.

    Attributes
    ----------
    logprob : float
        Natural logarithm of the probability of all its tokens.
    greedy : bool
        Whether each of them is the likeliest in its place, so that greedy decoding gives the continuation.
    tokens : int
        Number of tokens.
    """

    logprob: float
    greedy: bool
    tokens: int


def loglikelihoods(
    model: LanguageModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    num_threads: int | None = None,
) -> list[Likelihood]:
    """Return the log-likelihood of each continuation after its context, as :meth:`LanguageModel.score` gives it.

    Parameters
    ----------
    model : LanguageModel
    pairs : sequence of (context, continuation)
        Token ids, at least one each. In any order: contexts that begin with the same tokens share them.
    num_threads : int, optional
        Threads to use; the result is the same for every number.

    Returns
    -------
    list of Likelihood
        In the order of the pairs.

    Raises
    ------
    ConfigError
        If a context or a continuation is empty.
    TokenError
        If a token is outside the vocabulary.
    NumericalError
        If the logits are not finite.
    """
    require_model(model)
    following: list[npt.NDArray[np.int64]] = []
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            raise ConfigError(f"pairs[{number}]: expected a context and a continuation of at least one token, got none")
        following.append(check_token_array(continuation, model.vocab_size))
    results: dict[int, Likelihood] = {}
    for ending, logits, state in read_contexts(model, [context for context, _ in pairs], num_threads=num_threads):
        for numbers in _batches(ending, following):
            results |= _run(model, {number: following[number] for number in numbers}, logits, state, num_threads)
    return [results[number] for number in range(len(pairs))]


def read_contexts(
    model: LanguageModel, contexts: Sequence[Sequence[int]], *, num_threads: int | None = None
) -> Iterator[tuple[list[int], npt.NDArray[Any], State]]:
    """Run contexts, each token that several of them begin with once.

    Parameters
    ----------
    model : LanguageModel
    contexts : sequence of sequences of int
        Token ids, at least one each, in any order.
    num_threads : int, optional
        Threads to use; the result is the same for every number.

    Yields
    ------
    numbers : list of int
        The places of equal contexts.
    logits : float [vocab_size]
        After the last token of them.
    state : State
        The same; others go on from it, so it must not be changed.
    """
    tree: RadixTree[list[int]] = RadixTree()
    for number, context in enumerate(contexts):
        node = tree.insert(check_token_array(context, model.vocab_size).astype(np.int32))
        node.value = [*(node.value or []), number]
    open_nodes: list[tuple[Node[list[int]], State | None]] = [(child, None) for child in tree.root.children.values()]
    while open_nodes:
        node, state = open_nodes.pop()
        logits, state = model.forward(node.tokens.astype(np.int64), state, num_threads=num_threads)
        open_nodes.extend((child, state) for child in node.children.values())
        if node.value:
            yield node.value, logits, state


def _batches(numbers: Sequence[int], following: Sequence[npt.NDArray[np.int64]]) -> Iterator[list[int]]:
    """Divide continuations into those that run in one pass; one that is long has a pass of its own."""
    batch: list[int] = []
    rows = 0
    for number in numbers:
        if batch and (len(batch) == _MOST_TEXTS or rows + len(following[number]) > _MOST_ROWS):
            yield batch
            batch, rows = [], 0
        batch.append(number)
        rows += len(following[number])
    if batch:
        yield batch


def _run(
    model: LanguageModel,
    texts: dict[int, npt.NDArray[np.int64]],
    logits: npt.NDArray[Any],
    state: State,
    num_threads: int | None,
) -> dict[int, Likelihood]:
    """Score continuations that follow one state, all of them in one pass if they are short."""
    if max(map(len, texts.values())) > CHUNK_TOKENS:
        return {number: _score_long(model, tokens, logits, state, num_threads) for number, tokens in texts.items()}
    long = {number: tokens for number, tokens in texts.items() if len(tokens) > 1}
    parts = [
        Part(tokens[:-1], state.data, np.empty_like(state.data), wanted=len(tokens) - 1) for tokens in long.values()
    ]
    rows = dict(zip(long, model.passes.run(parts, num_threads), strict=True))
    return {number: _likelihood([logits, *rows.get(number, ())], tokens) for number, tokens in texts.items()}


def _score_long(
    model: LanguageModel,
    tokens: npt.NDArray[np.int64],
    logits: npt.NDArray[Any],
    state: State,
    num_threads: int | None,
) -> Likelihood:
    """Score a continuation in pieces, so that memory stays bounded."""
    parts = [_likelihood([logits], tokens[:1])]
    for start in range(0, len(tokens) - 1, _MOST_ROWS):
        end = min(start + _MOST_ROWS, len(tokens) - 1)
        rows, state = model.forward(tokens[start:end], state, all_logits=True, num_threads=num_threads)
        parts.append(_likelihood(list(rows), tokens[start + 1 : end + 1]))
    return Likelihood(sum(part.logprob for part in parts), all(part.greedy for part in parts), len(tokens))


def _likelihood(rows: Sequence[npt.NDArray[Any]], tokens: npt.NDArray[np.int64]) -> Likelihood:
    if not all(np.isfinite(row).all() for row in rows):
        raise NumericalError("logits: expected finite numbers, got NaN or infinity; verify the model file")
    logprobs = [log_softmax(row)[token] for row, token in zip(rows, tokens, strict=True)]
    greedy = all(int(row.argmax()) == token for row, token in zip(rows, tokens, strict=True))
    return Likelihood(float(sum(logprobs)), greedy, len(tokens))
