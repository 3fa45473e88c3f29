"""The sampler: logits in, the next token out, and a memory of what was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.candidates import Candidates, choose_candidates
from rwkv_cy.text.options import SamplingOptions, check_natural
from rwkv_cy.text.repetition import Repetition

__all__ = ["Sampler", "SamplingOptions", "make_rng"]


class Sampler:
    """Chooses tokens, and remembers those it chose.

    Parameters
    ----------
    options : SamplingOptions
        How to choose.
    vocab_size : int
        Length of the logits. Ids among the options must be below.
    rng : numpy.random.Generator, int or None
        Where chance comes from: one uniform number for each token that is not certain; an int is a seed,
        None takes the system's entropy.

    Raises
    ------
    GenerationError
        If an id among the options lies outside the vocabulary, or `rng` is no seed.
    """

    def __init__(self, options: SamplingOptions, vocab_size: int, rng: np.random.Generator | int | None = None) -> None:
        for name in ("logit_bias", "banned_tokens", "penalty_free_tokens"):
            too_big = [token for token in getattr(options, name) or () if token >= vocab_size]
            if too_big:
                raise GenerationError(f"{name}: expected ids below {vocab_size}, got {min(too_big)}")
        self.options = options
        self.vocab_size = vocab_size
        self._rng = make_rng(rng)
        self._repetition = Repetition(options)
        self._work = np.empty(4 * vocab_size, dtype=np.float32)
        self._bias_ids = np.fromiter(options.logit_bias, dtype=np.int64)
        self._bias = np.fromiter(options.logit_bias.values(), dtype=np.float64)
        self._banned = np.array(sorted(options.banned_tokens), dtype=np.int64)

    def sample(self, logits: npt.NDArray[np.floating[Any]]) -> int:
        """Choose a token and remember it.

        Parameters
        ----------
        logits : float [vocab_size]
            Left as they are.

        Returns
        -------
        int

        Raises
        ------
        GenerationError
            If the logits have another length, one of them is NaN or infinite, or no token is left to choose.
        """
        found = self.candidates(logits)
        token = int(found.tokens[0])
        if found.tokens.size > 1:
            cumulative = np.cumsum(found.probabilities)
            place = np.searchsorted(cumulative, self._rng.random() * cumulative[-1], side="right")
            token = int(found.tokens[min(int(place), found.tokens.size - 1)])
        self.observe(token)
        return token

    def candidates(self, logits: npt.NDArray[np.floating[Any]]) -> Candidates:
        """Return the tokens that :meth:`sample` would choose among, and their probabilities; nothing is remembered."""
        options = self.options
        if np.shape(logits) != (self.vocab_size,):
            raise GenerationError(f"logits: expected shape ({self.vocab_size},), got {np.shape(logits)}")
        adjusted, scratch = self._work[: self.vocab_size], self._work[self.vocab_size :]
        with np.errstate(over="ignore"):  # float64 beyond float32: found below
            adjusted[:] = logits
        if not np.isfinite(adjusted).all():
            bad = int(np.flatnonzero(~np.isfinite(adjusted))[0])
            raise GenerationError(
                f"logits: expected finite numbers, got {adjusted[bad]} for token {bad}; check the model with verify"
            )
        adjusted[self._bias_ids] += self._bias
        self._repetition.apply(adjusted)
        adjusted[self._banned] = -np.inf
        return choose_candidates(
            adjusted,
            options.temperature,
            options.top_p,
            options.top_k,
            temperature_last=options.order == "rwkv",
            scratch=scratch,
        )

    def observe(self, token: int) -> None:
        """Remember a token as if it had been chosen here."""
        self._repetition.observe(token)


def make_rng(seed: np.random.Generator | int | None) -> np.random.Generator:
    """Return a generator as it is, or a new one from a seed.

    Raises
    ------
    GenerationError
        If `seed` is negative or no integer.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is not None:
        check_natural("seed", seed)
    return np.random.default_rng(seed)
