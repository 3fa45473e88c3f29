"""Candidates for the next token, with their probabilities: temperature, top-k, top-p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.kernels.sample import NucleusSearch
from rwkv_cy.records import dataclass
from rwkv_cy.text.sampling.options import SamplingOptions

__all__ = ["Candidates", "NucleusSearch", "Search", "find_candidates"]

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


class Search:
    """A search for the candidates of one text.

    With ``order="temperature-first"``: p = softmax(logits / temperature); the `top_k` likeliest; of these,
    renormalised, the likeliest that reach `top_p` together. With ``order="rwkv"``, as in that package:
    p = softmax(logits); all tokens at least as likely as the one at which the sum reaches `top_p`; of these the `top_k`
    likeliest; p ** (1/temperature). Ties are broken in favour of the lowest id.

    Parameters
    ----------
    logits : float32 [vocab_size]
        -inf for forbidden tokens; must not change before the candidates are found.
    options : SamplingOptions
    """

    def __init__(self, logits: npt.NDArray[np.float32], options: SamplingOptions) -> None:
        temperature, self._top_p = options.temperature, options.top_p
        self._logits = logits
        self._last = options.order == "rwkv"  # whether the temperature and top-k come after top-p
        self._top_k = options.top_k
        if temperature == 0:
            temperature, self._top_p = 1.0, 0.0
            self._top_k = self._top_k if self._last else 0
        self._scale = 1.0 / max(temperature, _COLDEST)
        self._tokens = None if self._last else _largest(logits, None, self._top_k)
        self._values = _take(logits, self._tokens)

    @property
    def row(self) -> tuple[npt.NDArray[np.float32], float, float, bool] | None:
        """What a NucleusSearch looks for; None if all are kept."""
        if self._top_p == 1:
            return None
        return self._values, 1.0 if self._last else self._scale, self._top_p, self._last

    def candidates(self, places: npt.NDArray[np.int64] | None, highest: float) -> Candidates:
        """Return the candidates, from what a NucleusSearch has found; for places, None stands for all.

        Raises
        ------
        GenerationError
            If every token is forbidden.
        """
        if highest == -np.inf:
            raise GenerationError("logits: expected at least one token that is not banned, got none; ban fewer")
        tokens = self._tokens
        if places is not None:
            tokens = places if tokens is None else tokens[places]
        if self._last:
            tokens = _largest(self._logits, tokens, self._top_k)
        if tokens is not None and tokens.size == 1:
            return Candidates(tokens, np.ones(1))
        with np.errstate(under="ignore"):  # as by default; the caller may have made it an error
            weights = np.exp((_take(self._logits, tokens).astype(np.float64) - highest) * self._scale)
            if tokens is None:
                tokens = np.arange(self._logits.size)
            possible = weights > 0
            if not possible.all():
                tokens, weights = tokens[possible], weights[possible]
            return Candidates(tokens, weights / weights.sum())

    def all_candidates(self) -> Candidates:
        """Return the candidates if all are kept."""
        return self.candidates(None, float(self._values.max()))


def find_candidates(
    searches: Sequence[Search], nuclei: NucleusSearch, num_threads: int = 1
) -> list[Candidates | Exception]:
    """Run searches in parallel.

    Parameters
    ----------
    searches : sequence of Search
    nuclei : NucleusSearch
        Not used by other threads at the same time.
    num_threads : int, default 1
        Threads to use; the result is the same for every number.

    Returns
    -------
    list
        Of each search its candidates, or the exception that it raised.
    """
    rows = [search.row for search in searches]
    found = iter(nuclei.find([row for row in rows if row is not None], num_threads))
    results: list[Candidates | Exception] = []
    for search, row in zip(searches, rows, strict=True):
        try:
            results.append(search.all_candidates() if row is None else search.candidates(*next(found)))
        except Exception as error:
            results.append(error)
    return results


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
        # Below the `top_k`-th of the largest of each block, nothing is among the largest. Blocks are columns: NumPy
        # takes the largest of each column faster than that of each row.
        blocks = values[: values.size // _BLOCK * _BLOCK].reshape(_BLOCK, -1).max(axis=0)
        places = np.flatnonzero(values >= np.partition(blocks, blocks.size - top_k)[blocks.size - top_k])
        tokens = places if tokens is None else tokens[places]
        values = values[places]
    smallest = np.partition(values, values.size - top_k)[values.size - top_k]
    above = np.flatnonzero(values > smallest)
    equals = np.flatnonzero(values == smallest)[: top_k - above.size]
    places = np.sort(np.concatenate([above, equals]))
    return places if tokens is None else tokens[places]
