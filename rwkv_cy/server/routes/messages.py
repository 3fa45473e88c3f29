"""Anthropic's ``/v1/messages``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from rwkv_cy.chat import CallDelta, CallStart
from rwkv_cy.chat import Event as Piece
from rwkv_cy.records import dataclass, field
from rwkv_cy.server import sse
from rwkv_cy.server.answering import Answering, begin
from rwkv_cy.server.constraints import constraints
from rwkv_cy.server.http import Context, Events, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.wire.common import new_id, stop_strings
from rwkv_cy.server.wire.messages import (
    CountRequest,
    MessagesRequest,
    content_blocks,
    conversation_of,
    stop_of,
    usage_of,
)

__all__ = ["count", "create"]


async def create(service: Service, context: Context, body: MessagesRequest) -> Reply:
    """Answer a conversation."""
    model = service.check_model(body.model)
    form = body.output_config.format if body.output_config else None
    answering = await begin(
        service,
        context,
        conversation_of(body, service.settings.thinking),
        body,
        max_tokens=service.max_tokens(body.max_tokens),
        stops=stop_strings("stop_sequences", body.stop_sequences, service.settings.limits.stops),
        constraints=await constraints(service, form, 1, "output_config.format"),
    )
    told = _Told(answering, body, model)
    return Events(told.frames(), error_event="error") if body.stream else await told.whole()


async def count(service: Service, context: Context, body: CountRequest) -> Reply:
    """Count the tokens of a conversation."""
    service.check_model(body.model)
    conversation = conversation_of(body, service.settings.thinking)
    prompt = await service.prompt(conversation, service.partition(context, body.prompt_cache_key))
    return {"input_tokens": len(prompt.tokens)}


@dataclass
class _Told:
    """How the answer is told: its blocks, and the events as they grow."""

    answering: Answering
    body: MessagesRequest
    model: str
    id: str = field(default_factory=lambda: new_id("msg_"))
    _index: int = -1
    _kind: str = ""

    async def whole(self) -> dict[str, Any]:
        """Return the message when it is complete."""
        await self.answering.complete()
        reason, sequence = self._stop()
        return {
            **self._head(),
            "content": content_blocks(self.answering.choices[0].answer),
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_of(self.answering.usage),
        }

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the events."""
        start = {"input_tokens": len(self.answering.prompt.tokens), "output_tokens": 0}
        message = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": start}
        yield _event("message_start", message=message)
        async with aclosing(self.answering.run()) as steps:  # type: ignore[type-var]
            async for _, _, pieces in steps:
                for piece in pieces:
                    for frame in self._piece(piece):
                        yield frame
        if self._index < 0:
            yield self._open("text", {"type": "text", "text": ""})
        yield self._close()
        reason, sequence = self._stop()
        usage = usage_of(self.answering.usage)
        yield _event("message_delta", delta={"stop_reason": reason, "stop_sequence": sequence}, usage=usage)
        yield _event("message_stop")

    def _piece(self, piece: Piece) -> Iterator[bytes]:
        """Yield the events of a piece of the answer; a piece of another kind begins a new block."""
        if isinstance(piece, CallStart):
            if self._index >= 0:
                yield self._close()
            yield self._open("call", {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
        elif isinstance(piece, CallDelta):
            yield self._delta({"type": "input_json_delta", "partial_json": piece.text})
        else:
            if self._kind != piece.kind:
                if self._index >= 0:
                    yield self._close()
                yield self._open(piece.kind, _EMPTY[piece.kind])
            delta = _DELTAS[piece.kind]
            yield self._delta({"type": f"{delta}_delta", delta: piece.text})

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        self._index, self._kind = self._index + 1, kind
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        self._kind = ""
        return _event("content_block_stop", index=self._index)

    def _stop(self) -> tuple[str, str | None]:
        choice = self.answering.choices[0]
        return stop_of(choice.finish_reason, choice.matched, self.body.stop_sequences)

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model}


#: Names of the deltas of texts, and the blocks that they are added to.
_DELTAS = {"reasoning": "thinking", "content": "text"}
_EMPTY: dict[str, dict[str, Any]] = {
    "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
    "content": {"type": "text", "text": ""},
}


def _event(kind: str, **fields: Any) -> bytes:
    return sse.frame({"type": kind, **fields}, kind)
