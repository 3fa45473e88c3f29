"""Candidates for the next token, with their probabilities: temperature, top-k, top-p."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.kernels.sample import nucleus
from rwkv_cy.records import dataclass

__all__ = ["Candidates", "choose_candidates"]

#: Lower temperatures are raised to this, which keeps only the likeliest tokens without overflow.
_COLDEST = 1e-30
#: Logits of a block, of which only the largest is looked at first.
_BLOCK = 64


@dataclass(frozen=True)
class Candidates:
    """Tokens to choose among.

    Attributes
    ----------
    tokens : int64 [n]
        Token ids, in ascending order.
    probabilities : float64 [n]
        They sum to 1.
    """

    tokens: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


def choose_candidates(
    logits: npt.NDArray[np.float32],
    temperature: float,
    top_p: float,
    top_k: int,
    *,
    temperature_last: bool,
    scratch: npt.NDArray[np.float32],
) -> Candidates:
    """Choose the candidates.

    With `temperature_last` false: p = softmax(logits / temperature); the `top_k` likeliest; of these, renormalised,
    the likeliest that reach `top_p` together. If it is true, as in the ``rwkv`` package: p = softmax(logits); all
    tokens at least as likely as the one at which the sum reaches `top_p`; of these the `top_k` likeliest;
    p ** (1/temperature). Ties are broken in favour of the lowest id.

    Parameters
    ----------
    logits : float32 [vocab_size]
        -inf for forbidden tokens.
    scratch : float32 [4 * vocab_size]
        Overwritten. At 65,536 tokens, allocating these arrays would cost more than the arithmetic.

    Raises
    ------
    GenerationError
        If every token is forbidden.
    """
    likeliest = int(np.argmax(logits))
    highest = logits[likeliest]
    if highest == -np.inf:
        raise GenerationError("logits: expected at least one token that is not banned, got none; ban fewer")
    if temperature == 0 and not temperature_last:
        return Candidates(np.array([likeliest]), np.ones(1))
    if temperature == 0:
        temperature, top_p = 1.0, 0.0
    scale = 1.0 / max(temperature, _COLDEST)
    if temperature_last:
        tokens = _nucleus(logits, None, highest, 1.0, top_p, keep_equals=True, scratch=scratch)
        tokens = _largest(logits, tokens, top_k)
    else:
        tokens = _largest(logits, None, top_k)
        tokens = _nucleus(logits, tokens, highest, scale, top_p, keep_equals=False, scratch=scratch)
    weights = np.exp((_take(logits, tokens).astype(np.float64) - highest) * scale)
    if tokens is None:
        tokens = np.arange(logits.size)
    possible = weights > 0
    if not possible.all():
        tokens, weights = tokens[possible], weights[possible]
    return Candidates(tokens, weights / weights.sum())


# Below, `tokens` are ascending ids, and None stands for the whole vocabulary, which is then not copied.


def _take(values: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64] | None) -> npt.NDArray[np.float32]:
    return values if tokens is None else values[tokens]


def _largest(
    logits: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64] | None, top_k: int
) -> npt.NDArray[np.int64] | None:
    """Keep the `top_k` largest logits (0: all); ties are broken in favour of the lowest ids."""
    values = _take(logits, tokens)
    if top_k == 0 or top_k >= values.size:
        return tokens
    if 2 * top_k * _BLOCK <= values.size:
        # So many blocks have a number that is at least `least`: those below it are not among the largest.
        blocks = values[: values.size // _BLOCK * _BLOCK].reshape(-1, _BLOCK).max(axis=1)
        places = np.flatnonzero(values >= np.partition(blocks, blocks.size - top_k)[blocks.size - top_k])
        tokens = places if tokens is None else tokens[places]
        values = values[places]
    smallest = np.partition(values, values.size - top_k)[values.size - top_k]
    above = np.flatnonzero(values > smallest)
    equals = np.flatnonzero(values == smallest)[: top_k - above.size]
    places = np.sort(np.concatenate([above, equals]))
    return places if tokens is None else tokens[places]


def _nucleus(
    logits: npt.NDArray[np.float32],
    tokens: npt.NDArray[np.int64] | None,
    highest: np.float32,
    scale: float,
    top_p: float,
    *,
    keep_equals: bool,
    scratch: npt.NDArray[np.float32],
) -> npt.NDArray[np.int64] | None:
    """Keep the likeliest tokens that reach `top_p` together; with `keep_equals`, also all as likely as the last."""
    if top_p == 1:
        return tokens
    places = nucleus(_take(logits, tokens), float(highest), scale, top_p, keep_equals, scratch)
    return places if tokens is None else tokens[places]
