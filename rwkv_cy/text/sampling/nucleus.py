"""Candidates for the next token, with their probabilities: temperature, top-k, top-p."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.kernels.sample import nucleus_boundary
from rwkv_cy.records import dataclass

__all__ = ["Candidates", "choose_candidates"]

#: Lower temperatures are raised to this, which keeps only the likeliest tokens without overflow.
_COLDEST = 1e-30


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
    scratch : float32 [3 * vocab_size]
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
    smallest = np.partition(values, values.size - top_k)[values.size - top_k]
    return _at_least(values, tokens, smallest, top_k - int(np.count_nonzero(values > smallest)))


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
    values = _take(logits, tokens)
    weights, rest = scratch[: values.size], scratch[values.size :]
    with np.errstate(over="ignore", under="ignore"):
        np.subtract(values, highest, out=weights)
        np.multiply(weights, np.float32(scale), out=weights)
        np.exp(weights, out=weights)
    smallest, equals = nucleus_boundary(values, weights, float(weights.sum(dtype=np.float64)), top_p, rest)
    return _at_least(values, tokens, np.float32(smallest), None if keep_equals else equals)


def _at_least(
    values: npt.NDArray[np.float32], tokens: npt.NDArray[np.int64] | None, smallest: np.float32, equals: int | None
) -> npt.NDArray[np.int64]:
    """Keep the values above `smallest`, and the first `equals` (None: all) of those equal to it."""
    if equals is None:
        places = np.flatnonzero(values >= smallest)
    else:
        above = np.flatnonzero(values > smallest)
        places = np.sort(np.concatenate([above, np.flatnonzero(values == smallest)[:equals]]))
    return places if tokens is None else tokens[places]
