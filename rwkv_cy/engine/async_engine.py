"""AsyncEngine: an engine in a thread of its own, for programs on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from threading import Condition, Thread
from types import TracebackType
from typing import TypeVar
from weakref import WeakValueDictionary

from rwkv_cy.engine.engine import Engine
from rwkv_cy.engine.events import Event
from rwkv_cy.engine.request import Request
from rwkv_cy.errors import ConfigError

__all__ = ["AsyncEngine", "EventStream"]

_T = TypeVar("_T")


class EventStream(AsyncIterator[Event]):
    """The events of a request, the last of which has a `finish_reason`.

    :meth:`close` cancels a request that is in progress; so do the cancellation of a task that waits for an event, and
    the garbage collection of the stream.

    Attributes
    ----------
    request_id : str
    """

    def __init__(self, request_id: str, close: Callable[[str], None]) -> None:
        self.request_id = request_id
        self._close = close
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
        except BaseException:
            self.close()
            raise
        if event.finish_reason is not None:
            self.close()
        return event

    def close(self) -> None:
        """End the stream, and cancel the request if it is in progress. May be called again."""
        if not self._ended:
            self._ended = True
            self._close(self.request_id)

    def __del__(self) -> None:
        self.close()

    def put(self, event: Event | Exception) -> None:
        """Add an event, from the thread of the event loop."""
        self._events.put_nowait(event)


class AsyncEngine:
    """Runs the steps of an engine in a thread, and hands the events to coroutines of one event loop.

    ``async with AsyncEngine(engine) as front`` starts the thread and ends it.

    Parameters
    ----------
    engine : Engine
        Not stepped by anybody else meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._wake = Condition()
        self._closing = False
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: WeakValueDictionary[str, EventStream] = WeakValueDictionary()
        self._failure: Exception | None = None

    async def __aenter__(self) -> AsyncEngine:
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="rwkv-cy engine", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is in progress, and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def submit(self, request: Request) -> EventStream:
        """Start a request; call it from the thread of the event loop.

        Parameters
        ----------
        request : Request

        Returns
        -------
        EventStream
            A slow consumer does not delay others.

        Raises
        ------
        ConfigError
            If the thread does not run.
        BusyError, GenerationError, TokenizerError, TokenError, StateError
            As for :meth:`Engine.submit`.
        """
        if self._thread is None or self._closing or self._failure is not None:
            raise ConfigError(f"AsyncEngine: expected a running engine, got {self._failure or 'one that is not open'}")
        # Events reach the event loop after this method returns to it, so that none is lost.
        stream = EventStream(self.engine.submit(request), self._forget)
        self._streams[stream.request_id] = stream
        with self._wake:
            self._wake.notify()
        return stream

    def _forget(self, name: str) -> None:
        self._streams.pop(name, None)
        self.engine.cancel(name)

    def _work(self) -> None:
        """Run steps until the front is closed; the body of the thread."""
        try:
            while not self._closing:
                self._call(self._deliver, self.engine.step())
                with self._wake:
                    self._wake.wait_for(lambda: self._closing or not self.engine.idle)
            self.engine.cancel_all()
            self._call(self._deliver, self.engine.step())
        except Exception as error:
            self._failure = error
            self._call(self._fail, error)

    def _call(self, function: Callable[[_T], None], argument: _T) -> None:
        """Let the event loop call a function, unless it is closed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is not None:
                stream.put(event)

    def _fail(self, error: Exception) -> None:
        for stream in tuple(self._streams.values()):
            stream.put(error)
