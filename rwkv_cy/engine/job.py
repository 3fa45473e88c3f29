"""Job: a request in progress: its sequence, its slot, and how far the model has read its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.events import Event, Timings, TokenLogprobs, Usage
from rwkv_cy.engine.request import Request
from rwkv_cy.engine.speculation.plan import Drafts
from rwkv_cy.engine.state_cache.cache import Key
from rwkv_cy.engine.state_cache.radix_tree import Tokens
from rwkv_cy.model.passes import Part
from rwkv_cy.model.state import State
from rwkv_cy.text.sampling import Candidates, Search
from rwkv_cy.text.sequence import Sequence as Text

__all__ = ["Job"]


class Job:
    """A request in progress.

    Parameters
    ----------
    request : Request
    name : str
        Its name in events.
    sequence : rwkv_cy.text.Sequence
    base : numpy.ndarray
        The state before the prompt; not modified.
    new_state : callable
        Makes a state of the model.
    cache_key : (str, str)
        Of the texts that it may share states with.
    drafts : Drafts or None
        None: it does not speculate.

    Attributes
    ----------
    position : int
        Tokens of the text, those of the prompt included, that the state `source` has read.
    """

    def __init__(
        self,
        request: Request,
        name: str,
        sequence: Text,
        base: npt.NDArray[Any],
        new_state: Callable[[], State],
        cache_key: Key,
        drafts: Drafts | None,
    ) -> None:
        self.request = request
        self.name = name
        self.sequence = sequence
        self.position = 0
        self.source = base
        self.usage = Usage(prompt_tokens=len(sequence.prompt))
        self.timings = Timings()
        self.slot = -1
        self.cache_key = cache_key
        self.drafts = drafts
        #: The logits after the text, if they are known before it is read.
        self.known_logits = None if request.logits is None else np.asarray(request.logits)
        self._base = base
        self._new_state = new_state
        self._planes: npt.NDArray[Any] = base[np.newaxis]
        self._plane = 0  # the one that `source` is in, after the first pass
        self._since = perf_counter()

    @property
    def unread(self) -> int:
        """Tokens of the text that the state has not read."""
        return len(self.sequence.prompt) + len(self.sequence.tokens) - self.position

    @property
    def decodes(self) -> bool:
        """Whether the prompt is read."""
        return self.position >= len(self.sequence.prompt)

    def enter(self, slot: int, planes: npt.NDArray[Any]) -> None:
        """Take a slot and its states."""
        self.slot, self._planes = slot, planes
        self.timings.queued = self._lap()

    def begin_from(self, count: int, state: npt.NDArray[Any], logits: npt.NDArray[Any] | None) -> None:
        """Begin after `count` tokens of the prompt, from a state that is not modified."""
        self.position, self.source = count, state
        self.usage.cached_tokens = count
        if not self.unread:
            self.known_logits = logits

    def read_tokens(self) -> Tokens:
        """Return the tokens that the state has read."""
        own = max(0, self.position - len(self.sequence.prompt))
        return np.array([*self.sequence.prompt[: self.position], *self.sequence.tokens[:own]], np.int32)

    def rewind(self) -> None:
        """Begin to read the text anew, after an interrupt has left the state undefined, or ahead of the text.

        It goes on without drafts, whose sources may have missed a token.
        """
        self.position, self.source = 0, self._base
        self.drafts = None

    def draft(self, tokens: int, texts: int) -> Sequence[int]:
        """Return a draft of what may follow the one unread token, as :meth:`Drafts.draft` does."""
        if self.drafts is None or not self.decodes or self.unread != 1 or self.sequence.finish_reason is not None:
            return ()
        most, limit = len(self._planes) - 1, self.request.max_tokens
        if limit is not None:
            most = min(most, limit - len(self.sequence.tokens) - 1)
        return self.drafts.draft(most, tokens, texts)

    def part(self, count: int, draft: Sequence[int] = ()) -> Part:
        """Return the next `count` unread tokens, or the only one with a draft, for a pass."""
        if draft:
            ids = np.array([self.sequence.tokens[-1], *draft], np.int64)
            return Part(ids, self.source, self._planes[: len(ids)], wanted=len(ids))
        prompt, own = self.sequence.prompt, self.position - len(self.sequence.prompt)
        if own >= 0:
            tokens = self.sequence.tokens[own : own + count]
        else:
            tokens = [*prompt[self.position : self.position + count], *self.sequence.tokens][:count]
        return Part(
            np.array(tokens, np.int64), self.source, self._planes[self._plane], wanted=int(count == self.unread)
        )

    def advance(self, part: Part) -> None:
        """Take note of a pass over a part."""
        self.source = part.write
        self.position += len(part.ids)

    def verify(self, part: Part, rows: npt.NDArray[Any], events: list[Event]) -> None:
        """Choose tokens from the logits of a pass, as long as they are those of its draft, and add their events.

        Each is chosen from the logits that it would be chosen from without a draft, with the same random numbers, and
        only after the one before: samplers and constraints are never ahead of the text.
        """
        chosen: list[int] = []
        draft = part.ids[1:]
        self.usage.drafted_tokens += len(draft)
        for place, row in enumerate(rows):
            self.source, self._plane = part.write[place], place
            self.position += 1
            self.usage.accepted_tokens += place > 0
            events.append(self.accept(row[np.newaxis]))
            if self.sequence.finish_reason is not None:
                break
            chosen.append(self.sequence.tokens[-1])
            if place < len(draft) and chosen[-1] != draft[place]:
                break
        if self.drafts is not None:
            self.drafts.observe(chosen)

    def search(self, rows: npt.NDArray[Any]) -> Search | None:
        """Return the search for the next token's candidates, from the logits after the text if it continues."""
        if not len(rows) or self.sequence.finish_reason is not None:
            return None
        self.sequence.mark_read()
        return self.sequence.search(rows[0])

    def choose(self, rows: npt.NDArray[Any], events: list[Event], candidates: Candidates | None = None) -> None:
        """Choose the next token if the text is read, and add its event; `candidates` are those of :meth:`search`."""
        if self.unread:
            if self.request.report_progress:
                events.append(Event(self.name, read_tokens=self.position))
            return
        events.append(self.accept(rows, candidates))
        if self.drafts is not None and self.sequence.finish_reason is None:
            self.drafts.observe(self.sequence.tokens[-1:])

    def accept(self, rows: npt.NDArray[Any], candidates: Candidates | None = None) -> Event:
        """Choose the next token from the logits after the text, or end a text that is complete."""
        sequence = self.sequence
        if sequence.finish_reason is not None:
            return self.final(logits=rows[-1])
        sequence.mark_read()
        token = sequence.accept(rows[0], candidates)
        self.known_logits = None
        if len(sequence.tokens) <= 1:
            self.timings.prefill += self._lap()
        wanted = self.request.logprobs
        logprobs = None if wanted is None else TokenLogprobs.of(rows[0], token, wanted)
        ended = sequence.finish_reason is not None and not (self.request.return_state and self.unread)
        shown = None if sequence.finish_reason == "stop_token" else token
        if ended:
            return self.final(sequence.take_text(), shown, logprobs, rows[0])
        return Event(self.name, sequence.take_text(), shown, logprobs)

    def final(
        self,
        text: str = "",
        token: int | None = None,
        logprobs: TokenLogprobs | None = None,
        logits: npt.NDArray[Any] | None = None,
        *,
        reason: str | None = None,
        error: Exception | None = None,
    ) -> Event:
        """Return the last event; `reason` replaces that of the sequence."""
        self.timings.decode = self._lap()
        self.usage.completion_tokens = len(self.sequence.tokens)
        state = None
        if reason is None and self.request.return_state:
            state = self._new_state()
            state.data[...] = self.source
        reason = reason or self.sequence.finish_reason
        return Event(
            self.name,
            text,
            token,
            logprobs,
            finish_reason=reason,
            usage=self.usage,
            timings=self.timings,
            matched=self.sequence.matched if reason in ("stop_token", "stop_string") else None,
            state=state,
            logits=None if state is None or logits is None else logits.copy(),
            error=error,
        )

    def _lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._since = self._since, perf_counter()
        return self._since - before
