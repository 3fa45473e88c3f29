"""Sequence: one text in progress, as data: pending tokens, sampler, stop conditions and the text so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.sampling import Candidates, Sampler, Search
from rwkv_cy.text.stopping import StopStrings
from rwkv_cy.text.tokenizers import Tokenizer

__all__ = ["Sequence"]


class Sequence:
    """One text in progress. It has neither a model nor a state; a driver runs the model.

    The driver repeats three steps until `finish_reason` is set: run the model on `pending`, call :meth:`mark_read`, and
    pass the logits after the last pending token to :meth:`accept`. One driver may run many sequences.

    Parameters
    ----------
    prompt : iterable of int
        Tokens that come before the generated ones; may be empty for a text that continues from known logits.
    tokenizer : Tokenizer
        Decodes the generated tokens.
    sampler : Sampler
        Chooses tokens; not shared with other sequences.
    stop : str or iterable of str
        The text ends before the first complete one of these.
    stop_tokens : iterable of int
        The text ends before the first of these.
    max_tokens : int or None
        Upper limit of generated tokens; None for no limit.

    Attributes
    ----------
    prompt : list of int
    tokens : list of int
        Tokens generated so far, including those of a stop string; a stop token is not included.
    finish_reason : str or None
        ``"length"``, ``"stop_token"``, ``"stop_string"`` or ``"grammar"`` (nothing can follow) once the text is
        complete, None before.
    matched : int, str or None
        The stop token or stop string that ended the text.
    """

    def __init__(
        self,
        prompt: Iterable[int],
        tokenizer: Tokenizer,
        sampler: Sampler,
        *,
        stop: str | Iterable[str] = (),
        stop_tokens: Iterable[int] = (),
        max_tokens: int | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.tokens: list[int] = []
        self.finish_reason: str | None = "length" if max_tokens == 0 else None
        self.matched: int | str | None = None
        self._sampler = sampler
        self._stream = tokenizer.stream()
        self._stop = StopStrings(stop)
        self._stop_tokens = frozenset(stop_tokens)
        self._max_tokens = max_tokens
        self._read = 0  # tokens that the model has read, those of the prompt included
        self._whole = True  # whether `tokens`, `text` and the rest agree
        self._pieces: list[str] = []
        self._taken = 0

    def __repr__(self) -> str:
        return (
            f"Sequence({len(self.prompt)} prompt tokens, {len(self.tokens)} generated, {self._unread} pending, "
            f"finish_reason={self.finish_reason!r})"
        )

    @property
    def pending(self) -> list[int]:
        """Tokens that the model has not read yet, as a copy: the rest of the prompt, or the last chosen token."""
        own = self._read - len(self.prompt)
        return self.tokens[own:] if own >= 0 else [*self.prompt[self._read :], *self.tokens]

    @property
    def _unread(self) -> int:
        return len(self.prompt) + len(self.tokens) - self._read

    def mark_read(self, count: int | None = None) -> None:
        """Remove the first `count` tokens from `pending`; all of them by default.

        Raises
        ------
        GenerationError
            If there are fewer.
        """
        count = self._unread if count is None else count
        if not 0 <= count <= self._unread:
            raise GenerationError(f"count: expected 0 to {self._unread} pending tokens, got {count}")
        self._read += count

    def search(self, logits: npt.NDArray[np.floating[Any]]) -> Search:
        """Return the search for the next token's candidates.

        A driver runs those of many sequences at once (:func:`rwkv_cy.text.sampling.find_candidates`), and passes the
        candidates to :meth:`accept`. Arguments and errors are those of `accept`; the sequence is as before.
        """
        self._check()
        return self._sampler.search(logits[: self._sampler.vocab_size], self.tokens)

    def accept(self, logits: npt.NDArray[np.floating[Any]], candidates: Candidates | None = None) -> int:
        """Choose the next token from the logits after the last one.

        Parameters
        ----------
        logits : float [at least the sampler's vocab_size]
            Not modified. Ids beyond the sampler's vocabulary stand for no text and are never chosen.
        candidates : Candidates, optional
            Those that a :meth:`search` of these logits has found.

        Returns
        -------
        int
            The token. It is now in `tokens` and `pending`, unless it is a stop token.

        Raises
        ------
        GenerationError
            If the text is complete, tokens are pending, no token can be chosen (see :meth:`Sampler.sample`), or an
            earlier call failed after it had chosen a token, so that text and tokens do not agree.

        Notes
        -----
        If the choice fails, as by an exception of a logits processor, the sequence is as before.
        """
        self._check()
        if candidates is None:
            candidates = self._sampler.candidates(logits[: self._sampler.vocab_size], self.tokens)
        token = self._sampler.choose(candidates)
        self._whole = False
        if token in self._stop_tokens:
            self.matched = token
            self._finish("stop_token")
        else:
            self._append(token)
        self._whole = True
        return token

    def _check(self) -> None:
        """Check that the next token can be chosen."""
        if not self._whole:
            raise GenerationError(
                "accept: expected a text that agrees with its tokens, but an earlier call was interrupted as it added "
                "one; generate anew from the state or the tokens"
            )
        if self.finish_reason is not None:
            raise GenerationError(f"accept: expected a text in progress, got one that ended by {self.finish_reason}")
        if self._unread:
            raise GenerationError(
                f"accept: expected logits after every pending token, got {self._unread} still unread; call mark_read"
            )

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        self._add(self._stop.push(self._stream.push(token)))
        if self._stop.stopped:
            self.finish_reason, self.matched = "stop_string", self._stop.matched
        elif self._sampler.is_complete(self.tokens):
            self._finish("grammar")
        elif self._max_tokens is not None and len(self.tokens) >= self._max_tokens:
            self._finish("length")

    @property
    def text(self) -> str:
        """The generated text so far, without incomplete characters and possible beginnings of stop strings."""
        return "".join(self._pieces)

    def take_text(self) -> str:
        """Return the part of `text` that was added since the last call."""
        new = "".join(self._pieces[self._taken :])
        self._taken = len(self._pieces)
        return new

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        self._add(self._stop.push(self._stream.finish()) + self._stop.finish())

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
