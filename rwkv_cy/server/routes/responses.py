"""``/v1/responses``, with ``previous_response_id``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from rwkv_cy.chat import CallDelta, CallStart, Message, TextDelta
from rwkv_cy.chat import Event as Piece
from rwkv_cy.records import replace
from rwkv_cy.server import sse
from rwkv_cy.server.answering import Answering, begin, message_of
from rwkv_cy.server.constraints import constraints
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Events, Reply
from rwkv_cy.server.service import Service, StoredResponse
from rwkv_cy.server.wire.common import new_id, token_logprob
from rwkv_cy.server.wire.responses import ResponseRequest, conversation_of, response_object, response_usage

__all__ = ["create", "delete", "one"]


async def create(service: Service, context: Context, body: ResponseRequest) -> Reply:
    """Answer an input that may continue an earlier response."""
    model = service.check_model(body.model)
    if body.background:
        raise invalid("background", "expected false: answers are not computed in the background", "not_supported")
    restricted = await constraints(service, body.text.format if body.text else None, 1, "text.format")
    earlier: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        earlier = service.responses.get(context.owner, body.previous_response_id, "previous_response_id").messages
    conversation = conversation_of(body, earlier, service.settings.thinking)
    asked = conversation
    if body.instructions:
        asked = replace(conversation, messages=[Message("system", body.instructions), *conversation.messages])
    answering = await begin(
        service,
        context,
        asked,
        body,
        max_tokens=service.max_tokens(body.max_output_tokens),
        logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
        constraints=restricted,
    )
    told = _Told(answering, body, model, tuple(conversation.messages))
    return Events(told.frames(), error_event="error") if body.stream else await told.whole()


async def one(service: Service, context: Context, body: None) -> Reply:
    """Return a stored response."""
    return service.responses.get(context.owner, context.params["id"]).body


async def delete(service: Service, context: Context, body: None) -> Reply:
    """Delete a stored response."""
    name = context.params["id"]
    service.responses.delete(context.owner, name)
    return {"id": name, "object": "response.deleted", "deleted": True}


class _Told:
    """How the answer is told: its items, and the events as they grow."""

    def __init__(self, answering: Answering, body: ResponseRequest, model: str, messages: tuple[Message, ...]) -> None:
        self._answering = answering
        self._body = body
        self._messages = messages
        self._head = {"id": new_id("resp_"), "created_at": int(time.time()), "model": model}
        self._items: list[dict[str, Any]] = []
        self._number = 0
        self._logprobs: list[dict[str, Any]] = []

    async def whole(self) -> dict[str, Any]:
        """Return the response when it is complete."""
        async with aclosing(self.frames()) as frames:  # type: ignore[type-var]
            async for _ in frames:
                pass
        return self._final()

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the events."""
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=response_object(self._body, self._head, "in_progress", ()))
        async with aclosing(self._answering.run()) as steps:  # type: ignore[type-var]
            async for choice, _, pieces in steps:
                tokenizer = self._answering.service.tokenizer
                self._logprobs += [token_logprob(tokenizer, each) for each in choice.take_logprobs()]
                for piece in pieces:
                    for frame in self._piece(piece):
                        yield frame
        for frame in self._close():
            yield frame
        self._store()
        final = self._final()
        yield self._event(f"response.{final['status']}", response=final)

    def _piece(self, piece: Piece) -> Iterator[bytes]:
        """Yield the events of a piece of the answer; a piece of another kind begins a new item."""
        if isinstance(piece, CallStart):
            yield from self._close()
            yield from self._open(
                {"type": "function_call", "id": new_id("fc_"), "call_id": piece.id, "name": piece.name, "arguments": ""}
            )
        elif isinstance(piece, CallDelta):
            self._items[-1]["arguments"] += piece.text
            yield self._of_item("response.function_call_arguments.delta", delta=piece.text)
        else:
            yield from self._text(piece)

    def _text(self, piece: TextDelta) -> Iterator[bytes]:
        kind = "reasoning" if piece.kind == "reasoning" else "message"
        if not self._items or self._items[-1]["type"] != kind or self._items[-1]["status"] != "in_progress":
            yield from self._close()
            yield from self._open(_new_item(kind))
            self._items[-1]["content"] = [_new_part(kind)]
            yield self._of_item("response.content_part.added", content_index=0, part=_new_part(kind))
        part = self._items[-1]["content"][0]
        part["text"] += piece.text
        if kind == "reasoning":
            yield self._of_item("response.reasoning_text.delta", content_index=0, delta=piece.text)
            return
        logprobs, self._logprobs = self._logprobs, []
        part["logprobs"] += logprobs
        yield self._of_item("response.output_text.delta", content_index=0, delta=piece.text, logprobs=logprobs)

    def _open(self, item: dict[str, Any]) -> Iterator[bytes]:
        self._items.append({**item, "status": "in_progress"})
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1])

    def _close(self) -> Iterator[bytes]:
        """Yield the events at the end of the item in progress, if there is one."""
        if not self._items or self._items[-1]["status"] != "in_progress":
            return
        item = self._items[-1]
        item["status"] = "completed"
        if item["type"] == "function_call":
            yield self._of_item("response.function_call_arguments.done", arguments=item["arguments"])
        else:
            part = item["content"][0]
            if item["type"] == "reasoning":
                yield self._of_item("response.reasoning_text.done", content_index=0, text=part["text"])
            else:
                yield self._of_item(
                    "response.output_text.done", content_index=0, text=part["text"], logprobs=part["logprobs"]
                )
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse.frame({"type": kind, "sequence_number": number, **fields}, kind)

    def _final(self) -> dict[str, Any]:
        answering = self._answering
        more: dict[str, Any] = {"usage": response_usage(answering.usage, answering.reasoning_tokens)}
        cut = answering.choices[0].finish_reason == "length"
        if cut:
            more["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            more["completed_at"] = int(time.time())
        return response_object(self._body, self._head, "incomplete" if cut else "completed", self._items, **more)

    def _store(self) -> None:
        """Keep the response, and the conversation up to its end."""
        if self._body.store is False:
            return
        messages = (*self._messages, message_of(self._answering.choices[0].answer))
        weight = 4096 + sum(len(message.content) + len(message.reasoning) for message in messages)
        stored = StoredResponse(self._final(), messages)
        self._answering.service.responses.add(self._answering.context.owner, str(self._head["id"]), stored, weight)


def _new_item(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning", "id": new_id("rs_"), "summary": [], "content": []}
    return {"type": "message", "id": new_id("msg_"), "role": "assistant", "content": []}


def _new_part(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": ""}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
