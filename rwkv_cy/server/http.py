"""HTTP: reads requests within limits, runs handlers, and sends answers, streams and errors."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rwkv_cy.records import dataclass, field
from rwkv_cy.server import sse
from rwkv_cy.server.errors import ApiError, as_api_error
from rwkv_cy.server.wire.common import new_id

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from rwkv_cy.server.service import Service

__all__ = ["Context", "Endpoint", "Events", "Raw", "Reply", "read_body", "send_error"]

_T = TypeVar("_T")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
#: Seconds of silence after which a stream says that it is alive.
_HEARTBEAT = 15.0


class DisconnectedError(Exception):
    """The client left before the answer was complete."""


@dataclass
class Context:
    """What is known about a request beside its body.

    Attributes
    ----------
    id : str
        The client's, or a new one.
    owner : str
        Whose it is: a digest of the API key.
    route : str
    params : mapping of str to str
        Of the path.
    notes : dict
        What the log has about it: numbers of tokens, times.
    """

    id: str
    owner: str = ""
    route: str = "unknown"
    params: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> Context:
        """Return the context of a request."""
        given = headers.get("x-request-id", "")
        return cls(given if _REQUEST_ID.fullmatch(given) else new_id("req_"))


@dataclass
class Events:
    """An answer that is a stream.

    Attributes
    ----------
    frames : async iterator of bytes
        Closed when the client leaves.
    error_event : str or None
        Name of the event that an error in the stream has.
    """

    frames: AsyncIterator[bytes]
    error_event: str | None = None


@dataclass
class Raw:
    """An answer that is not JSON."""

    data: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


#: A JSON object, a stream, or bytes.
Reply = dict[str, Any] | Events | Raw
Handler = Callable[["Service", Context, Any], Awaitable[Reply]]


class Endpoint:
    """Runs a handler for requests to one path: an ASGI application.

    Parameters
    ----------
    service : Service
    path : str
        For metrics and logs.
    handler : callable
        Takes the service, the context and the decoded body; returns the answer.
    body : type or None
        What the body is decoded to; None if there is none.
    """

    def __init__(self, service: Service, path: str, handler: Handler, body: type | None = None) -> None:
        self._service = service
        self._path = path
        self._handler = handler
        self._decoder: msgspec.json.Decoder[Any] | None = None if body is None else msgspec.json.Decoder(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        context: Context = scope["rwkv_cy"]
        context.route = self._path
        context.params = scope.get("path_params", {})
        limit = self._service.settings.limits.request_seconds
        try:
            deadline = asyncio.get_running_loop().time() + limit
            try:
                data = await read_body(scope, receive, self._service)
                value = None if self._decoder is None else self._decoder.decode(data)
                reply = await _watched(receive, self._run(context, value), deadline)
            except Exception as error:
                if isinstance(error, DisconnectedError):
                    raise
                await self._send_error(context, error, send)
                return
            if isinstance(reply, Events):
                await self._send_events(context, reply, receive, send, deadline)
            else:
                await send_reply(reply, send)
        except DisconnectedError:
            context.notes["disconnected"] = True

    async def _run(self, context: Context, value: Any) -> Reply:
        return await self._handler(self._service, context, value)

    async def _send_error(self, context: Context, error: Exception, send: Send) -> None:
        known = as_api_error(error)
        self._service.note_error(context, known, error)
        await send_error(known, send)

    async def _send_events(
        self, context: Context, events: Events, receive: Receive, send: Send, deadline: float
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _encoded(sse.HEADERS)})
        last = time.monotonic()

        async def produce() -> None:
            nonlocal last
            frames = events.frames
            try:
                async for frame in frames:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
                    last = time.monotonic()
                    await asyncio.sleep(0)  # so that a client that has left is noticed before the next frame
            finally:
                await frames.aclose()  # type: ignore[attr-defined]

        async def keep_alive() -> None:
            while True:
                await asyncio.sleep(_HEARTBEAT)
                if time.monotonic() - last >= _HEARTBEAT:
                    await send({"type": "http.response.body", "body": sse.COMMENT, "more_body": True})

        alive = asyncio.create_task(keep_alive())
        try:
            await _watched(receive, produce(), deadline)
        except DisconnectedError:
            raise
        except Exception as error:
            known = as_api_error(error)
            self._service.note_error(context, known, error)
            frame = sse.frame(known.body(), events.error_event)
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        finally:
            alive.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(scope: Scope, receive: Receive, service: Service) -> bytes:
    """Return the body of a request.

    Raises
    ------
    ApiError
        If it is too long, or takes too long.
    DisconnectedError
        If the client leaves.
    """
    limits = service.settings.limits
    too_long = ApiError(413, f"body: expected at most {limits.body_bytes} bytes", code="body_too_large")
    stated = dict(scope["headers"]).get(b"content-length", b"")
    if stated.isdigit() and int(stated) > limits.body_bytes:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body_bytes:
                    raise too_long
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise ApiError(408, f"body: expected it within {limits.body_seconds:g} seconds", code="timeout") from None


async def _watched(receive: Receive, work: Coroutine[Any, Any, _T], deadline: float) -> _T:
    """Run `work`, and cancel it when the client leaves or the time is over."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_left(receive))
    try:
        timeout = deadline - asyncio.get_running_loop().time()
        await asyncio.wait({task, watcher}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if watcher.done():
            raise DisconnectedError
        raise ApiError(504, "the answer took longer than the server allows", "timeout_error", code="timeout")
    finally:
        for each in (task, watcher):
            each.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(task, watcher, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_reply(reply: dict[str, Any] | Raw, send: Send) -> None:
    """Send an answer that is complete."""
    if isinstance(reply, Raw):
        await _send(send, 200, reply.data, {"content-type": reply.content_type, **reply.headers})
    else:
        await _send(send, 200, msgspec.json.encode(reply), {"content-type": "application/json"})


async def send_error(error: ApiError, send: Send) -> None:
    """Send an error object."""
    headers = {"content-type": "application/json", **error.headers()}
    await _send(send, error.status, msgspec.json.encode(error.body()), headers)


async def _send(send: Send, status: int, data: bytes, headers: Mapping[str, str]) -> None:
    every = {**headers, "content-length": str(len(data))}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(every)})
    await send({"type": "http.response.body", "body": data, "more_body": False})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
