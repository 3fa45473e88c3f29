"""What a pass costs by its number of tokens, measured as passes run."""

from __future__ import annotations

import math
from bisect import bisect_left, insort

__all__ = ["Costs"]

#: Cost of a further token in a pass, in passes of one token, until it is measured.
_FURTHER = 0.3
#: Weight of the latest measurement in an average.
_LATEST = 0.15


class Costs:
    """Seconds of a pass over so many tokens: averages where measured, straight lines between and beyond."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._seconds: dict[int, float] = {}

    def observe(self, tokens: int, seconds: float) -> None:
        """Take note of a pass."""
        if tokens not in self._seconds:
            insort(self._counts, tokens)
            self._seconds[tokens] = seconds
        self._seconds[tokens] += _LATEST * (seconds - self._seconds[tokens])

    def ratio(self, before: int, after: int) -> float:
        """Return how much longer a pass over `after` tokens takes than one over `before`, which are fewer."""
        if not self._counts:
            return (1 + _FURTHER * (after - 1)) / (1 + _FURTHER * (before - 1))
        return max(1.0, self._estimate(after) / self._estimate(before))

    def seconds(self, tokens: int) -> float:
        """Return how long a pass takes; infinitely long as long as nothing is measured."""
        return self._estimate(tokens) if self._counts else math.inf

    def _estimate(self, tokens: int) -> float:
        counts, seconds = self._counts, self._seconds
        if tokens in seconds:
            return seconds[tokens]
        place = bisect_left(counts, tokens)
        if 0 < place < len(counts):
            low, high = counts[place - 1], counts[place]
            share = (tokens - low) / (high - low)
            return seconds[low] + share * (seconds[high] - seconds[low])
        nearest = counts[0] if place == 0 else counts[-1]
        return seconds[nearest] * (1 + _FURTHER * (tokens - 1)) / (1 + _FURTHER * (nearest - 1))
