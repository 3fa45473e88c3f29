"""Texts of a request: several answers side by side, each split into its parts as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress

from rwkv_cy.chat import Answer, AnswerParser
from rwkv_cy.chat import Event as Piece
from rwkv_cy.engine import Event, Timings, TokenLogprobs, Usage
from rwkv_cy.engine.async_engine import EventStream
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass, field
from rwkv_cy.server.errors import ApiError

__all__ = ["Choice", "close_all", "merged", "total_usage"]

#: What the engine's reasons are in OpenAI's API.
_REASONS = {"length": "length", "stop_token": "stop", "stop_string": "stop", "grammar": "stop"}


@dataclass
class Choice:
    """One answer, as far as it has come.

    Attributes
    ----------
    index : int
    answer : Answer
    text : str
        All text, as it was generated.
    logprobs : list of TokenLogprobs
        Of the tokens since they were taken the last time.
    reasoning_tokens : int
    finish_reason : str or None
        In OpenAI's words; None while the answer goes on.
    matched : str, int or None
        The stop string or token that ended it.
    usage : Usage
    timings : Timings or None
        Once it is complete.
    state : State or None
        After the answer, if the request wants it.
    """

    index: int
    answer: Answer = field(default_factory=Answer)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    reasoning_tokens: int = 0
    finish_reason: str | None = None
    matched: str | int | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings | None = None
    state: State | None = None
    _parser: AnswerParser | None = None

    @classmethod
    def of_chat(cls, index: int, opening: str, tools: Collection[str], exact: bool = False) -> Choice:
        """Return an answer of a chat that begins with `opening`, a part of the prompt."""
        choice = cls(index, _parser=AnswerParser(tools, exact=exact))
        choice._pieces(opening)
        return choice

    def push(self, event: Event) -> list[Piece]:
        """Take an event of the engine; return the pieces of the answer that it completes.

        Raises
        ------
        ApiError
            If the engine cancelled the request.
        Exception
            What ended the request with an error.
        """
        if event.error is not None:
            raise event.error
        if event.finish_reason == "cancelled":
            raise ApiError(503, "the server is shutting down", "unavailable_error", retry_after=5)
        if event.logprobs is not None and event.token is not None:
            self.logprobs.append(event.logprobs)
        self.text += event.text
        pieces = self._pieces(event.text)
        if event.token is not None and self._parser is not None and self._parser.reasoning:
            self.reasoning_tokens += 1
        if event.finish_reason is not None:
            pieces += self._finish(event)
        return pieces

    def take_logprobs(self) -> list[TokenLogprobs]:
        """Return the log-probabilities since the last call."""
        taken, self.logprobs = self.logprobs, []
        return taken

    def _pieces(self, text: str) -> list[Piece]:
        pieces = self._parser.push(text) if self._parser is not None else []
        self.answer.add(pieces)
        return pieces

    def _finish(self, event: Event) -> list[Piece]:
        pieces = self._parser.finish() if self._parser is not None else []
        self.answer.add(pieces)
        reason = _REASONS[event.finish_reason or ""]
        self.finish_reason = "tool_calls" if self.answer.calls and reason == "stop" else reason
        self.matched, self.state = event.matched, event.state
        self.usage, self.timings = event.usage or Usage(), event.timings
        return pieces


async def merged(streams: Sequence[EventStream]) -> AsyncIterator[tuple[int, Event]]:
    """Yield the events of several streams as they come, with their number. Closing it closes all of them."""
    if len(streams) == 1:
        try:
            async for event in streams[0]:
                yield 0, event
        finally:
            streams[0].close()
        return
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(queue, place, stream)) for place, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            place, item = await queue.get()
            if item is None:
                open_streams -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield place, item
    finally:
        close_all(streams)
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(queue: asyncio.Queue[tuple[int, Event | Exception | None]], place: int, stream: EventStream) -> None:
    try:
        async for event in stream:
            queue.put_nowait((place, event))
        queue.put_nowait((place, None))
    except Exception as error:
        queue.put_nowait((place, error))


def close_all(streams: Sequence[EventStream]) -> None:
    """Close streams, which cancels what is in progress."""
    for stream in streams:
        stream.close()


def total_usage(choices: Sequence[Choice], prompts: int = 1) -> Usage:
    """Return the tokens of all answers together, and of their prompts, each of which is counted once.

    Parameters
    ----------
    choices : sequence of Choice
        The answers to the first prompt, then those to the next.
    prompts : int, default 1
    """
    each = len(choices) // prompts
    firsts = [choices[each * place].usage for place in range(prompts)]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
        completion_tokens=sum(choice.usage.completion_tokens for choice in choices),
        cached_tokens=sum(usage.cached_tokens for usage in firsts),
        cache_write_tokens=sum(usage.cache_write_tokens for usage in firsts),
        drafted_tokens=sum(choice.usage.drafted_tokens for choice in choices),
        accepted_tokens=sum(choice.usage.accepted_tokens for choice in choices),
    )
