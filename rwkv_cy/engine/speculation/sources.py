"""Sources of drafts: earlier text, a prediction, a grammar's forced tokens, and a small model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State

__all__ = ["Forced", "ForcingConstraint", "Lookup", "SmallModel", "Source"]

#: Lengths of the n-grams that a place in a text is found by, the longest first.
_LENGTHS = (6, 3)
#: Tokens of a text that are looked up; a longer one is looked up from there to its end.
_MOST_TOKENS = 1 << 15


class Source(Protocol):
    """Proposes how a text may go on."""

    def push(self, token: int) -> None:
        """Take note of the next token of the text."""
        ...

    def propose(self, most: int) -> Sequence[int]:
        """Return at most so many tokens that may come next."""
        ...


@runtime_checkable
class ForcingConstraint(Protocol):
    """A logits processor that can tell which tokens must come next."""

    def forced_tokens(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return the tokens that must follow those generated so far, as far as that is known."""
        ...


class Lookup:
    """Copies what followed the same tokens elsewhere: earlier in the text, or in a prediction of it.

    While a copy proves right, it goes on from there; after a wrong token, another place is found by the last tokens.

    Parameters
    ----------
    reference : sequence of int
        Tokens to copy from.
    grows : bool
        Whether the text itself is added to the reference: prompt lookup. If not, the reference is a prediction of the
        text from its first token on.
    pace : callable
        Returns how many tokens of the given text are indexed with the next token: a long prompt delays no token.
    """

    def __init__(self, reference: Sequence[int], *, grows: bool, pace: Callable[[], int] = lambda: 64) -> None:
        self._reference: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._grows = grows
        self._pace = pace
        self._tail: list[int] = []
        self._next: int | None = None if grows else 0
        self._reference.extend(reference[-_MOST_TOKENS:] if grows else reference[:_MOST_TOKENS])
        self._unindexed = len(self._reference)  # tokens whose n-grams are not found yet, before all others
        if grows:
            self._tail = self._reference[-max(_LENGTHS) :]

    def push(self, token: int) -> None:
        """Take note of the next token of the text."""
        if self._unindexed:
            for _ in range(min(self._pace(), self._unindexed)):
                self._index_older()
        follows = self._next is not None and self._next < len(self._reference) and self._reference[self._next] == token
        self._tail = [*self._tail, token][-max(_LENGTHS) :]
        self._next = self._next + 1 if follows and self._next is not None else self._find()
        if self._grows:
            self._add(token)

    def propose(self, most: int) -> Sequence[int]:
        """Return at most so many tokens that may come next; a copy that comes to the end of the text repeats itself."""
        if self._next is None:
            return ()
        draft = self._reference[self._next : self._next + most]
        while self._grows and draft and len(draft) < most:
            draft += draft[: most - len(draft)]
        return draft

    def _add(self, token: int) -> None:
        """Add a token to the reference; the n-grams that end with it are then followed by the next."""
        self._reference.append(token)
        end = len(self._reference)
        for length in _LENGTHS:
            if end >= length:
                self._places[tuple(self._reference[end - length :])] = end

    def _index_older(self) -> None:
        """Index the n-grams that end with the last token that is not indexed; those after it are the newer ones."""
        end = self._unindexed
        for length in _LENGTHS:
            if end >= length:
                self._places.setdefault(tuple(self._reference[end - length : end]), end)
        self._unindexed -= 1

    def _find(self) -> int | None:
        """Return the place after an earlier occurrence of the last tokens."""
        for length in _LENGTHS:
            place = self._places.get(tuple(self._tail[-length:]))
            if place is not None:
                return place
        return None


class Forced:
    """The tokens that a constraint forces.

    Parameters
    ----------
    constraint : ForcingConstraint
    """

    def __init__(self, constraint: ForcingConstraint) -> None:
        self._constraint = constraint
        self._tokens: list[int] = []

    def push(self, token: int) -> None:
        """Take note of the next token of the text."""
        self._tokens.append(token)

    def propose(self, most: int) -> Sequence[int]:
        """Return at most so many tokens that must come next."""
        return list(self._constraint.forced_tokens(self._tokens))[:most]


class SmallModel:
    """The likeliest tokens of a small model with the same vocabulary.

    Parameters
    ----------
    model : LanguageModel
    text : sequence of int
        The prompt.
    """

    def __init__(self, model: LanguageModel, text: Sequence[int]) -> None:
        self._model = model
        self._unread = list(text)
        self._state: State | None = None
        self._spare: State = model.initial_state()

    def push(self, token: int) -> None:
        """Take note of the next token of the text."""
        self._unread.append(token)

    def propose(self, most: int) -> Sequence[int]:
        """Return so many tokens, each the likeliest after those before; none while a long prompt is read."""
        part, self._unread = self._unread[:CHUNK_TOKENS], self._unread[CHUNK_TOKENS:]
        logits, self._state = self._model.forward(part, self._state, in_place=self._state is not None)
        if self._unread:
            return ()
        draft = [int(logits.argmax())]
        state: State | None = self._state
        while len(draft) < most:
            logits, state = self._model.forward(draft[-1], state, out=self._spare)
            draft.append(int(logits.argmax()))
        return draft
