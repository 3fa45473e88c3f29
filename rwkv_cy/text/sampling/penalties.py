"""Penalties on tokens that were generated before: decaying counts, and n-grams that must not repeat."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from rwkv_cy.text.sampling.options import SamplingOptions

__all__ = ["Penalties"]

_LARGEST = np.finfo(np.float32).max


class Penalties:
    """Counts of the generated tokens, and the penalties on the logits that follow from them.

    Parameters
    ----------
    options : SamplingOptions
        Which penalties apply.

    Attributes
    ----------
    active : bool
        Whether there are any; without, logits never change.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self.active = bool(
            options.presence_penalty
            or options.frequency_penalty
            or options.repetition_penalty != 1.0
            or options.no_repeat_ngram
        )
        # Distinct tokens in order of first appearance; the arrays grow by doubling.
        self._place: dict[int, int] = {}
        self._tokens = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float64)
        self._recent: deque[int] = deque(maxlen=options.repetition_window or None)
        self._tail: deque[int] = deque(maxlen=max(options.no_repeat_ngram - 1, 0))
        self._followers: dict[tuple[int, ...], set[int]] = {}

    def observe(self, token: int) -> None:
        """Count a token: all counts decay, then its own rises by one."""
        options = self._options
        if options.presence_penalty or options.frequency_penalty:
            self._count(token)
        if options.repetition_penalty != 1.0:
            self._recent.append(token)
        if options.no_repeat_ngram:
            if len(self._tail) == options.no_repeat_ngram - 1:
                self._followers.setdefault(tuple(self._tail), set()).add(token)
            self._tail.append(token)

    def _count(self, token: int) -> None:
        free = token in (self._options.penalty_free_tokens or ())
        self._counts[: len(self._place)] *= self._options.penalty_decay
        if free and self._options.order != "rwkv":
            return
        place = self._place.setdefault(token, len(self._place))
        if place == self._tokens.size:
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._tokens[place] = token
        self._counts[place] += 0.0 if free else 1.0

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Change `logits` in place.

        First ``l / penalty`` where l > 0, else ``l * penalty`` (repetition); then
        ``l - (presence + frequency * count)``; then -inf for a token that would repeat an n-gram.
        """
        options = self._options
        if self._recent:
            ids = np.unique(np.fromiter(self._recent, dtype=np.int64, count=len(self._recent)))
            values = logits[ids]
            penalty = np.float32(options.repetition_penalty)
            with np.errstate(over="ignore"):
                changed = np.where(values > 0, values / penalty, values * penalty)
            logits[ids] = np.clip(changed, -_LARGEST, _LARGEST)
        n = len(self._place)
        if n:
            logits[self._tokens[:n]] -= options.presence_penalty + options.frequency_penalty * self._counts[:n]
        if options.no_repeat_ngram:
            for token in self._followers.get(tuple(self._tail), ()):
                logits[token] = -np.inf
