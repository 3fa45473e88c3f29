"""GrammarConstraint: forbids the tokens that a grammar does not allow next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.kernels.sample import apply_mask

__all__ = ["GrammarConstraint"]

#: How llguidance's messages begin where no token can follow.
_NOTHING = "NoExtension"


class GrammarConstraint:
    """A logits processor for one text that follows a grammar; :meth:`Grammar.constraint` makes it.

    Parameters
    ----------
    matcher : llguidance.LLMatcher
        At the beginning of a text.
    end : int
        The token that ends a text, for the matcher.
    vocab_size : int
        The tokenizer's; ids from it on stand for nothing.
    kind : str
        The kind of grammar, for messages.

    Raises
    ------
    GenerationError
        If the grammar does not allow any text, or only the empty one.
    """

    def __init__(self, matcher: Any, end: int, vocab_size: int, kind: str) -> None:
        self._matcher = matcher
        self._end = end
        self._vocab_size = vocab_size
        self._kind = kind
        self._read: list[int] = []
        self._mask = np.zeros(max(end, vocab_size - 1) // 32 + 1, dtype=np.uint32)
        matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        first = self._mask.copy()
        first[end // 32] &= ~np.uint32(1 << end % 32)
        if matcher.get_error().startswith(_NOTHING) or not (first.any() or matcher.is_error()):
            raise GenerationError(f"{kind}: expected a grammar that allows a text, got one that allows none")
        if matcher.is_error():
            self._fail()

    def __call__(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of tokens that the grammar does not allow after `tokens` to -inf.

        Parameters
        ----------
        tokens : sequence of int
            The text so far, without the prompt.
        logits : float32 [vocab_size]

        Raises
        ------
        GenerationError
            If the text does not follow the grammar, or is too complex for it.
        """
        self._follow(tokens)
        self._compute_mask()
        apply_mask(self._mask, logits)

    def copy(self) -> GrammarConstraint:
        """Return a constraint for another text, which takes microseconds. This one must not have read a token."""
        return GrammarConstraint(self._matcher.deep_copy(), self._end, self._vocab_size, self._kind)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Return whether nothing can follow `tokens`."""
        self._follow(tokens)
        return bool(self._matcher.is_stopped())

    def is_accepted(self, tokens: Sequence[int]) -> bool:
        """Return whether `tokens` may be the whole text."""
        self._follow(tokens)
        return bool(self._matcher.is_accepting())

    def forced_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens that have to follow `tokens`, as the tokenizer would encode their text."""
        self._follow(tokens)
        if self._matcher.is_stopped():
            return []
        forced: list[int] = []
        for token in self._matcher.compute_ff_tokens():
            if token >= self._vocab_size:
                break
            forced.append(token)
        return forced

    def _follow(self, tokens: Sequence[int]) -> None:
        """Bring the matcher to the end of `tokens`, which are those of the call before and others behind them."""
        new = list(tokens[len(self._read) :])
        if len(tokens) < len(self._read):
            self._matcher.rollback(len(self._read) - len(tokens))
            self._read = list(tokens)
        if new and not self._matcher.consume_tokens(new):
            self._fail()
        self._read += new

    def _compute_mask(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            self._fail()

    def _fail(self) -> None:
        message = " ".join(self._matcher.get_error().split("<state>")[0].split())[:300]
        raise GenerationError(f"{self._kind}: after {len(self._read)} tokens: {message}")
