"""``/v1/chat/completions``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rwkv_cy.chat import Prompt
from rwkv_cy.engine import Request, TokenLogprobs
from rwkv_cy.engine.async_engine import EventStream
from rwkv_cy.server import sse
from rwkv_cy.server.constraints import check_format
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Events, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.texts import Choice, merged, total_usage
from rwkv_cy.server.wire.chat import ChatRequest, conversation_of, delta_of, message_object
from rwkv_cy.server.wire.common import (
    new_id,
    sampling_options,
    seed_of,
    stop_strings,
    token_logprob,
    usage_object,
)

__all__ = ["create", "requests_of"]


async def create(service: Service, context: Context, body: ChatRequest) -> Reply:
    """Answer a conversation."""
    model = service.check_model(body.model)
    conversation = conversation_of(body, service.settings.thinking)
    prompt = await service.prompt(conversation)
    requests = requests_of(service, body, prompt)
    names = [tool.name for tool in conversation.callable_tools]
    choices = [Choice.of_chat(index, prompt.opening, names) for index in range(len(requests))]
    answer = _Answer(service, context, model, body, choices, service.submit(requests))
    if body.stream:
        return Events(answer.chunks())
    return await answer.whole()


def requests_of(service: Service, body: ChatRequest, prompt: Prompt) -> list[Request]:
    """Return the requests to the engine, one for each choice."""
    limits = service.settings.limits
    count = body.n or 1
    if count > limits.choices:
        raise invalid("n", f"expected at most {limits.choices}, got {count}")
    check_format(body.response_format, limits)
    wants = (body.top_logprobs or 0) if body.logprobs else None
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs", "expected logprobs to be true; set it, or leave top_logprobs out")
    options = sampling_options(body, prompt.sampling, service.vocab_size)
    stops = (*stop_strings("stop", body.stop, limits.stops), *prompt.stops)
    return [
        Request(
            prompt=prompt.tokens,
            options=options,
            max_tokens=service.max_tokens(body.max_completion_tokens, body.max_tokens),
            stop=stops,
            seed=seed_of(body, index),
            logprobs=wants,
        )
        for index in range(count)
    ]


@dataclass
class _Answer:
    """The choices of a request in progress, and how they are told."""

    service: Service
    context: Context
    model: str
    body: ChatRequest
    choices: list[Choice]
    streams: list[EventStream]

    def __post_init__(self) -> None:
        self.id = new_id("chatcmpl-")
        self.created = int(time.time())

    async def whole(self) -> dict[str, Any]:
        """Return the answer when it is complete."""
        logprobs: list[list[TokenLogprobs]] = [[] for _ in self.choices]
        async with aclosing(merged(self.streams)) as events:  # type: ignore[type-var]
            async for place, event in events:
                self.choices[place].push(event)
                logprobs[place] += self.choices[place].take_logprobs()
                self._note(event)
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": choice.index,
                    "message": message_object(choice.answer),
                    "logprobs": self._logprobs(own),
                    "finish_reason": choice.finish_reason,
                }
                for choice, own in zip(self.choices, logprobs, strict=True)
            ],
            "usage": self._usage(),
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the frames of the answer."""
        wants_usage = bool(self.body.stream_options and self.body.stream_options.include_usage)
        extra = {"usage": None} if wants_usage else {}
        async with aclosing(merged(self.streams)) as events:  # type: ignore[type-var]
            for choice in self.choices:
                yield self._chunk(choice, {"role": "assistant", "content": "", "refusal": None}, extra)
            async for place, event in events:
                choice = self.choices[place]
                pieces = choice.push(event)
                self._note(event)
                for number, piece in enumerate(pieces):
                    own = choice.take_logprobs() if number == 0 else []
                    yield self._chunk(choice, delta_of(piece), extra, own)
                if choice.finish_reason is not None:
                    yield self._chunk(choice, {}, extra, choice.take_logprobs(), choice.finish_reason)
        usage = self._usage()
        if wants_usage:
            yield sse.frame({**self._head("chat.completion.chunk"), "choices": [], "usage": usage})
        yield sse.DONE

    def _note(self, event: Any) -> None:
        if event.timings is not None and event.usage is not None:
            times = event.timings
            self.service.note_times(self.context, times.first_token, times.decode, event.usage.completion_tokens)

    def _usage(self) -> dict[str, Any]:
        usage = total_usage(self.choices)
        self.service.note_usage(self.context, usage)
        return usage_object(usage, sum(choice.reasoning_tokens for choice in self.choices))

    def _head(self, kind: str) -> dict[str, Any]:
        fingerprint = f"fp_{self.service.model.fingerprint[:12]}"
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
        return {"content": [token_logprob(self.service.tokenizer, one) for one in logprobs], "refusal": None}
