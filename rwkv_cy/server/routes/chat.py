"""``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from rwkv_cy.engine import TokenLogprobs
from rwkv_cy.records import dataclass
from rwkv_cy.server import sse
from rwkv_cy.server.answering import Answering, begin
from rwkv_cy.server.constraints import constraints
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Events, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.texts import Choice
from rwkv_cy.server.wire.chat import ChatRequest, conversation_of, delta_of, message_object
from rwkv_cy.server.wire.common import (
    joined_text,
    new_id,
    progress_object,
    stop_strings,
    timings_object,
    token_logprob,
    usage_object,
)

__all__ = ["create"]


async def create(service: Service, context: Context, body: ChatRequest) -> Reply:
    """Answer a conversation."""
    model = service.check_model(body.model)
    limits = service.settings.limits
    count = body.n or 1
    if count > limits.choices:
        raise invalid("n", f"expected at most {limits.choices}, got {count}")
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "expected logprobs to be true; set it, or leave top_logprobs out")
    restricted = await constraints(service, body.response_format, count)
    predicted, _ = joined_text("prediction.content", body.prediction.content if body.prediction else None)
    answering = await begin(
        service,
        context,
        conversation_of(body, service.settings.thinking),
        body,
        max_tokens=service.max_tokens(body.max_completion_tokens, body.max_tokens),
        stops=stop_strings("stop", body.stop, limits.stops),
        count=count,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraints=restricted,
        prediction=predicted,
        report_progress=body.return_progress,
    )
    told = _Told(answering, model, body, new_id("chatcmpl-"), int(time.time()))
    return Events(told.chunks()) if body.stream else await told.whole()


@dataclass(frozen=True)
class _Told:
    """How the answers are told."""

    answering: Answering
    model: str
    body: ChatRequest
    id: str
    created: int

    async def whole(self) -> dict[str, Any]:
        """Return the answers when they are complete."""
        await self.answering.complete()
        choices = [
            {
                "index": choice.index,
                "message": message_object(choice.answer),
                "logprobs": self._logprobs(choice.take_logprobs()),
                "finish_reason": choice.finish_reason,
            }
            for choice in self.answering.choices
        ]
        for choice, state in zip(choices, self.answering.states, strict=False):
            choice["state"] = state
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(), **self._timings()}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the frames of the answers."""
        wants_usage = bool(self.body.stream_options and self.body.stream_options.include_usage)
        extra = {"usage": None} if wants_usage else {}
        for choice in self.answering.choices:
            yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None}, extra)
        async with aclosing(self.answering.run()) as steps:  # type: ignore[type-var]
            async for choice, event, pieces in steps:
                if event.read_tokens is not None:
                    progress = progress_object(event.read_tokens, len(self.answering.prompt.tokens))
                    head = self._head("chat.completion.chunk")
                    yield sse.frame({**head, "choices": [], "prompt_progress": progress, **extra})
                for number, piece in enumerate(pieces):
                    own = choice.take_logprobs() if number == 0 else []
                    yield self._chunk(choice, delta_of(piece), extra, own)
                if choice.finish_reason is not None:
                    yield self._chunk(choice, {}, extra, choice.take_logprobs(), choice.finish_reason)
        if self.answering.states:
            states = [{"index": index, "state": state} for index, state in enumerate(self.answering.states)]
            yield sse.frame({**self._head("chat.completion.chunk"), "choices": [], "states": states, **extra})
        if self.body.return_timings:
            yield sse.frame({**self._head("chat.completion.chunk"), "choices": [], **self._timings(), **extra})
        if wants_usage:
            yield sse.frame({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield sse.DONE

    def _timings(self) -> dict[str, Any]:
        """Return the times of the first answer, if the request wants them."""
        first = self.answering.choices[0]
        if not self.body.return_timings or first.timings is None:
            return {}
        return {"timings": timings_object(first.usage, first.timings)}

    def _usage(self) -> dict[str, Any]:
        predicted = self.body.prediction is not None
        return usage_object(self.answering.usage, self.answering.reasoning_tokens, predicted=predicted)

    def _head(self, kind: str) -> dict[str, Any]:
        fingerprint = f"fp_{self.answering.service.model.fingerprint[:12]}"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }

    def _chunk(
        self,
        choice: Choice,
        delta: dict[str, Any],
        extra: dict[str, Any],
        logprobs: Sequence[TokenLogprobs] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        one = {
            "index": choice.index,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        return sse.frame({**self._head("chat.completion.chunk"), "choices": [one], **extra})

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        tokenizer = self.answering.service.tokenizer
        return {"content": [token_logprob(tokenizer, one) for one in logprobs], "refusal": None}
