"""The sampler: takes logits, returns the next token, and remembers what it chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.kernels.sample import all_finite
from rwkv_cy.text.sampling.constraints import LogitsProcessor, apply_processors, is_complete
from rwkv_cy.text.sampling.nucleus import Candidates, NucleusSearch, Search, find_candidates
from rwkv_cy.text.sampling.options import SamplingOptions, check_natural
from rwkv_cy.text.sampling.penalties import Penalties

__all__ = ["Sampler", "make_rng"]


class Sampler:
    """Chooses tokens, and remembers those it chose.

    Parameters
    ----------
    options : SamplingOptions
        How to choose.
    vocab_size : int
        Length of the logits. Token ids in the options must be below it.
    rng : numpy.random.Generator, int or None
        Source of randomness: one uniform number per token, unless there is only one candidate. An int is a seed; None
        uses entropy of the system.
    processors : iterable of LogitsProcessor
        Applied in order to the logits after biases and penalties.

    Raises
    ------
    GenerationError
        If a token id in the options is outside the vocabulary, `rng` is not a seed, or a processor is not callable.
    """

    def __init__(
        self,
        options: SamplingOptions,
        vocab_size: int,
        rng: np.random.Generator | int | None = None,
        processors: Iterable[LogitsProcessor] = (),
    ) -> None:
        for name in ("logit_bias", "banned_tokens", "penalty_free_tokens"):
            too_big = [token for token in getattr(options, name) or () if token >= vocab_size]
            if too_big:
                raise GenerationError(f"{name}: expected token ids below {vocab_size}, got {min(too_big)}")
        self.options = options
        self.vocab_size = vocab_size
        self._processors = _checked_processors(processors)
        self._rng = make_rng(rng)
        self._penalties = Penalties(options)
        self._nuclei = NucleusSearch()
        self._bias_ids = np.fromiter(options.logit_bias, dtype=np.int64)
        self._bias = np.fromiter(options.logit_bias.values(), dtype=np.float64)
        self._banned = np.array(sorted(options.banned_tokens), dtype=np.int64)
        # Where logits are changed, if they are: after a pass this is in no cache, so that a copy is not cheap.
        changes = self._penalties.active or self._bias_ids.size or self._banned.size or self._processors
        self._adjusted = np.empty(vocab_size, dtype=np.float32) if changes else None

    def sample(self, logits: npt.NDArray[np.floating[Any]], tokens: Sequence[int] = ()) -> int:
        """Choose a token and remember it.

        Parameters
        ----------
        logits : float [vocab_size]
            Not modified.
        tokens : sequence of int
            The tokens generated so far, for the processors.

        Returns
        -------
        int

        Raises
        ------
        GenerationError
            If the logits have another length, contain NaN or Inf, or no token is left to choose.
        """
        return self.choose(self.candidates(logits, tokens))

    def candidates(self, logits: npt.NDArray[np.floating[Any]], tokens: Sequence[int] = ()) -> Candidates:
        """Return the tokens that :meth:`sample` would choose among, with their probabilities; remember nothing."""
        (found,) = find_candidates([self.search(logits, tokens)], self._nuclei)
        if isinstance(found, Exception):
            raise found
        return found

    def search(self, logits: npt.NDArray[np.floating[Any]], tokens: Sequence[int] = ()) -> Search:
        """Apply biases, penalties and processors, and return the search for candidates; remember nothing.

        Its candidates must be found (:func:`find_candidates`) before the next call, and before the logits change.
        """
        if np.shape(logits) != (self.vocab_size,):
            raise GenerationError(f"logits: expected shape ({self.vocab_size},), got {np.shape(logits)}")
        adjusted = self._adjusted
        with np.errstate(over="ignore"):  # a float64 value beyond float32 is caught below
            numbers = np.ascontiguousarray(logits, np.float32)
        if not all_finite(numbers, adjusted):
            bad = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise GenerationError(
                f"logits: expected finite numbers, got {numbers[bad]} for token {bad}; check the model with verify"
            )
        if adjusted is None:
            return Search(numbers, self.options)
        if self._bias_ids.size:
            adjusted[self._bias_ids] += self._bias
        self._penalties.apply(adjusted)
        if self._banned.size:
            adjusted[self._banned] = -np.inf
        if self._processors:
            apply_processors(self._processors, tokens, adjusted)
            adjusted[self._banned] = -np.inf
        return Search(adjusted, self.options)

    def choose(self, candidates: Candidates) -> int:
        """Choose one of the candidates and remember it."""
        token = int(candidates.tokens[0])
        if candidates.tokens.size > 1:
            cumulative = np.cumsum(candidates.probabilities)
            place = np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right")
            token = int(candidates.tokens[min(int(place), candidates.tokens.size - 1)])
        self.observe(token)
        return token

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Return whether a processor says that nothing can follow `tokens`, the text so far."""
        return is_complete(self._processors, tokens)

    def observe(self, token: int) -> None:
        """Remember a token as if it had been chosen here."""
        self._penalties.observe(token)


def _checked_processors(processors: Iterable[LogitsProcessor]) -> tuple[LogitsProcessor, ...]:
    if callable(processors) or not isinstance(processors, Iterable):
        raise GenerationError(f"logits_processors: expected a sequence of callables, got {processors!r}")
    checked = tuple(processors)
    for position, processor in enumerate(checked):
        if not callable(processor):
            raise GenerationError(f"logits_processors[{position}]: expected a callable, got {processor!r}")
    return checked


def make_rng(seed: np.random.Generator | int | None) -> np.random.Generator:
    """Return a generator unchanged, or a new one made from a seed.

    Raises
    ------
    GenerationError
        If `seed` is negative or not an integer.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is not None:
        check_natural("seed", seed)
    return np.random.default_rng(seed)
