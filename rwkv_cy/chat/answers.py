"""Answers: splits generated text into reasoning, content and calls of tools, piece by piece."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence

from rwkv_cy.chat.calls import CallReader
from rwkv_cy.chat.messages import ToolCall
from rwkv_cy.records import dataclass, field

__all__ = ["Answer", "AnswerParser", "CallDelta", "CallStart", "Event", "TextDelta", "new_call_id"]

_THINK = ("<think>", "</think>")
#: Around calls: what the formats ask for, and what models write that were trained on Hermes' function calls.
_CALLS = (("<tool_call>", "</tool_call>"), ("```json", "```"))


@dataclass(frozen=True)
class TextDelta:
    """A piece of text; `kind` is ``"reasoning"`` or ``"content"``."""

    kind: str
    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins: number `index` of the answer, of the tool `name`."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallDelta:
    """A piece of the arguments of call `index`, which are JSON as text."""

    index: int
    text: str


Event = TextDelta | CallStart | CallDelta


def new_call_id() -> str:
    """Return an identifier for a call."""
    return f"call_{uuid.uuid4().hex[:24]}"


@dataclass
class Answer:
    """An answer as a whole: the sum of its events.

    Attributes
    ----------
    content, reasoning : str
    calls : list of ToolCall
    """

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, events: Sequence[Event]) -> None:
        """Add what a parser returned."""
        for event in events:
            if isinstance(event, TextDelta):
                setattr(self, event.kind, getattr(self, event.kind) + event.text)
            elif isinstance(event, CallStart):
                self.calls.append(ToolCall(event.id, event.name, ""))
            else:
                call = self.calls[event.index]
                self.calls[event.index] = ToolCall(call.id, call.name, call.arguments + event.text)


class AnswerParser:
    """Splits an answer as it comes. White space around reasoning and content is dropped.

    Text is held back as long as it may be the beginning of a tag, a call, or white space at an end. The result does
    not depend on how the text is split into pieces.

    Parameters
    ----------
    tools : collection of str, default ()
        Names of the tools that may be called. A call of another one is content.
    new_id : callable, optional
        Makes the identifiers of calls.
    exact : bool, default False
        Take as a call only what a :class:`CallGrammar` has restricted; other forms are content.
    """

    def __init__(
        self, tools: Collection[str] = (), new_id: Callable[[], str] = new_call_id, *, exact: bool = False
    ) -> None:
        self._tools = frozenset(tools)
        self._new_id = new_id
        self._exact = exact
        self._held = ""
        self._state = "start"
        self._space = ""  # white space that is part of the text only if more follows
        self._begun = False  # whether the current part has text
        self._reader: CallReader | None = None
        self._marker = ("", "")
        self.calls = 0

    @property
    def reasoning(self) -> bool:
        """Whether the text so far ends within reasoning."""
        return self._state == "reasoning"

    @property
    def call_text(self) -> str | None:
        """The text since the marker of a call that is not complete; None outside of calls."""
        return None if self._reader is None else self._reader.text

    def push(self, text: str) -> list[Event]:
        """Take a piece of text; return what it completes."""
        self._held += text
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """End the text; return what was held back."""
        events: list[Event] = []
        if self._reader is not None:
            self._end_call(events, self._reader.finish())
        self._text(events, self._held)
        self._held = ""
        return events

    def _step(self, events: list[Event]) -> bool:
        """Handle what is held as far as it is decided; tell whether the state changed, so that more may be decided."""
        if self._state == "start":
            return self._start()
        if self._state == "call":
            return self._call(events)
        if self._state == "closing":
            return self._closing()
        openers = [_THINK[1]] if self._state == "reasoning" else [opener for opener, _ in _CALLS if self._tools]
        found = min(((self._held.find(tag), tag) for tag in openers if tag in self._held), default=None)
        if found is None:
            size = _open_end(self._held, openers)
            cut = len(self._held) - size
            self._text(events, self._held[:cut])
            self._held = self._held[cut:]
            return False
        place, tag = found
        self._text(events, self._held[:place])
        self._held = self._held[place + len(tag) :]
        if self._state == "reasoning":
            self._enter("content")
        else:
            self._marker = next(pair for pair in _CALLS if pair[0] == tag)
            self._reader = CallReader(self._tools, exact=self._exact)
            self._state = "call"
        return True

    def _start(self) -> bool:
        text = self._held.lstrip()
        if text.startswith(_THINK[0]):
            self._held = text[len(_THINK[0]) :]
            self._enter("reasoning")
            return True
        if _THINK[0].startswith(text):
            return False
        self._enter("content")
        return True

    def _call(self, events: list[Event]) -> bool:
        assert self._reader is not None
        pieces = self._reader.push(self._held)
        self._held = ""
        for piece in pieces:
            self._emit_call(events, piece)
        if self._reader.complete:
            self._end_call(events, [])
            self._state = "closing"
            return True
        if self._reader.refused:
            self._end_call(events, [])
            return True
        return False

    def _end_call(self, events: list[Event], pieces: Sequence[tuple[str, str]]) -> None:
        """Leave a call: what was not one is content, with its marker."""
        assert self._reader is not None
        for piece in pieces:
            self._emit_call(events, piece)
        refused, rest = self._reader.refused, self._reader.rest
        self._reader = None
        self._state = "content"
        if refused:
            # The marker is decided: it is text, and so is what follows up to the next marker.
            self._text(events, self._marker[0])
        self._held = rest + self._held

    def _emit_call(self, events: list[Event], piece: tuple[str, str]) -> None:
        kind, text = piece
        if kind == "name":
            self._space = ""
            events.append(CallStart(self.calls, self._new_id(), text))
            self.calls += 1
        elif text:
            events.append(CallDelta(self.calls - 1, text))

    def _closing(self) -> bool:
        """Drop the tag that closes a call."""
        text, closer = self._held.lstrip(), self._marker[1]
        if closer.startswith(text) and text != closer:
            return False
        self._held = text.removeprefix(closer)
        self._space = ""
        self._state = "content"
        return True

    def _enter(self, state: str) -> None:
        self._state, self._space, self._begun = state, "", False

    def _text(self, events: list[Event], text: str) -> None:
        """Emit text of the current part, without white space at its ends."""
        if not self._begun:
            text = text.lstrip()
        body = text.rstrip()
        if not body:
            self._space += text if self._begun else ""
            return
        kind = "reasoning" if self._state == "reasoning" else "content"
        events.append(TextDelta(kind, self._space + body))
        self._space, self._begun = text[len(body) :], True


def _open_end(text: str, tags: Sequence[str]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a tag."""
    longest = max(map(len, tags), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(text[-size:]) for tag in tags):
            return size
    return 0
