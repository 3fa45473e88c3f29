"""Models are not pickled: weights that are mapped or packed stay where they are."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["NotPickled"]


class NotPickled:
    """A model, which ``pickle`` and ``copy`` refuse with a sentence on what to do."""

    def __reduce__(self) -> NoReturn:
        """Raise TypeError. A class that knows how to make its own model again defines this method anew."""
        raise TypeError(
            f"{type(self).__name__}: models are neither pickled nor copied; threads share one, and another process "
            "loads it from its path, whose weights are in memory once for all of them"
        )
