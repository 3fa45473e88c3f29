"""States of a conversation at the ends of its messages, so that only new text is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

__all__ = ["StateHistory"]


class _SizedState(Protocol):
    """The part of a state's interface that the history uses."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        ...


S = TypeVar("S", bound=_SizedState)


class StateHistory(Generic[S]):
    """States after prefixes of one sequence of tokens.

    Parameters
    ----------
    base : optional
        The state before the first token; None stands for the model's initial state.
    max_bytes : int
        Most bytes of states. Beyond it the oldest are dropped, and text before them is read again if it is needed.

    Attributes
    ----------
    tokens : list of int
        The sequence.
    """

    def __init__(self, base: S | None, max_bytes: int) -> None:
        self.base = base
        self.tokens: list[int] = []
        self._states: dict[int, S] = {}  # by the number of tokens read, ascending
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._states)

    def longest(self, tokens: Sequence[int]) -> tuple[int, S | None]:
        """Return the state that has read most of `tokens`, but not all, and how many it has read.

        The last token is left to be read, because the logits after it are needed.
        """
        common = min(_common(self.tokens, tokens), len(tokens) - 1)
        count = max((place for place in self._states if place <= common), default=0)
        return count, self._states.get(count, self.base)

    def add(self, tokens: Sequence[int], count: int, state: S) -> None:
        """Store the state after the first `count` of `tokens`; states of other texts are dropped.

        Parameters
        ----------
        tokens : sequence of int
            The conversation.
        count : int
        state
            Must not be modified later.
        """
        common = _common(self.tokens, tokens)
        states = {place: kept for place, kept in self._states.items() if place <= common}
        states[count] = state
        states = dict(sorted(states.items()))
        while len(states) > 1 and sum(kept.nbytes for kept in states.values()) > self._max_bytes:
            del states[next(iter(states))]
        self.tokens, self._states = list(tokens), states


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))
