"""``/v1/completions``: texts that are continued as they are."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from rwkv_cy.engine import Request, TokenLogprobs
from rwkv_cy.engine.async_engine import EventStream
from rwkv_cy.records import dataclass, replace
from rwkv_cy.server import sse
from rwkv_cy.server.constraints import constraints
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.http import Context, Events, Reply
from rwkv_cy.server.scoring import Scored, score_prompt
from rwkv_cy.server.service import Service
from rwkv_cy.server.texts import Choice, merged, total_usage
from rwkv_cy.server.wire.common import new_id, sampling_options, seed_of, stop_strings, usage_object
from rwkv_cy.server.wire.completions import CompletionRequest, logprobs_object

__all__ = ["create"]


@dataclass
class _Prompt:
    """A text to continue: its tokens, and what is known about them."""

    text: str
    tokens: list[int]
    scored: Scored | None = None


async def create(service: Service, context: Context, body: CompletionRequest) -> Reply:
    """Continue texts."""
    model = service.check_model(body.model)
    prompts = await _prompts(service, body)
    count, tried = _counts(service, body, len(prompts))
    restricted = await constraints(service, body.response_format, len(prompts) * tried)
    if body.suffix:
        raise invalid("suffix", "expected none: the model continues a text only at its end", "not_supported")
    base = _request(service, context, body)
    if body.echo and body.logprobs is not None:
        for prompt in prompts:
            prompt.scored = await score_prompt(service, prompt.tokens, body.logprobs, base.state)
    starts = [(_starting(base, prompt), index) for prompt in prompts for index in range(tried)]
    requests = [
        replace(start, seed=seed_of(body, index), constraints=own)
        for (start, index), own in zip(starts, restricted, strict=True)
    ]
    answer = _Answer(service, context, model, body, prompts, count, tried, service.submit(requests))
    if body.stream:
        return Events(answer.chunks())
    return await answer.whole()


async def _prompts(service: Service, body: CompletionRequest) -> list[_Prompt]:
    """Return the texts of a request: one or several, as text or tokens."""
    given = body.prompt
    if isinstance(given, str) or (given and all(type(one) is int for one in given)):
        given = [given]
    if not 0 < len(given) <= service.settings.limits.choices:
        raise invalid("prompt", f"expected 1 to {service.settings.limits.choices} texts, got {len(given)}")
    prompts = []
    for place, one in enumerate(given):
        param = f"prompt[{place}]" if len(given) > 1 else "prompt"
        if isinstance(one, str):
            tokens = await service.encode(param, one) if one else _first_token(service)
            prompts.append(_Prompt(one, tokens))
        elif isinstance(one, list):
            tokens = service.check_tokens(param, one)
            prompts.append(_Prompt(service.tokenizer.decode(tokens), tokens))
        else:
            raise invalid(param, f"expected a text or token ids, got {type(one).__name__}")
    return prompts


def _first_token(service: Service) -> list[int]:
    """Return what an empty text begins with."""
    end = service.tokenizer.end_of_text
    if end is None:
        raise invalid("prompt", "expected at least one token, got none, and the model has no token to begin with")
    return [end]


def _counts(service: Service, body: CompletionRequest, prompts: int) -> tuple[int, int]:
    """Return how many answers each text gets, and how many are tried for that."""
    count, most = body.n or 1, service.settings.limits.choices
    tried = max(count, body.best_of or 1)
    if prompts * tried > most:
        raise invalid("n", f"expected at most {most} answers in all, got {prompts * tried}")
    if body.best_of is not None and body.best_of < count:
        raise invalid("best_of", f"expected at least n, {count}, got {body.best_of}")
    if tried > count and body.stream:
        raise invalid("best_of", "expected n in a stream, since the best answer is known only at the end")
    return count, tried


def _request(service: Service, context: Context, body: CompletionRequest) -> Request:
    limits = service.settings.limits
    wants = body.logprobs
    if wants is None and (body.best_of or 1) > (body.n or 1):
        wants = 0
    default = min(16, limits.max_tokens) if body.max_tokens is None else None
    return Request(
        options=sampling_options(body, {}, service.vocab_size),
        max_tokens=service.max_tokens(body.max_tokens, default),
        stop=stop_strings("stop", body.stop, limits.stops),
        logprobs=wants,
        state=service.states.get(context.owner, body.state, "state") if body.state else None,
        return_state=body.return_state,
        cache=not body.no_cache,
        cache_key=service.partition(context, body.prompt_cache_key),
    )


def _starting(base: Request, prompt: _Prompt) -> Request:
    if prompt.scored is not None:
        return replace(base, prompt=(), state=prompt.scored.state, logits=prompt.scored.logits)
    return replace(base, prompt=prompt.tokens)


@dataclass
class _Answer:
    """The choices of a request in progress, and how they are told."""

    service: Service
    context: Context
    model: str
    body: CompletionRequest
    prompts: list[_Prompt]
    count: int
    tried: int
    streams: list[EventStream]

    def __post_init__(self) -> None:
        self.id = new_id("cmpl-")
        self.created = int(time.time())
        self.choices = [Choice(index) for index in range(len(self.streams))]
        #: Characters before the next token, for each choice.
        self._offsets = [
            len(prompt.text) if self.body.echo else 0 for prompt in self.prompts for _ in range(self.tried)
        ]

    async def whole(self) -> dict[str, Any]:
        """Return the answers when they are complete."""
        async with aclosing(merged(self.streams)) as events:  # type: ignore[type-var]
            async for place, event in events:
                self.choices[place].push(event)
                self.service.note_event(self.context, event)
        results = []
        for number, prompt in enumerate(self.prompts):
            own = self.choices[number * self.tried : (number + 1) * self.tried]
            if self.tried > self.count:
                own = sorted(own, key=_mean_logprob, reverse=True)[: self.count]
            results += [self._choice(prompt, choice) for choice in own]
        for index, result in enumerate(results):
            result["index"] = index
        return {**self._head(), "choices": results, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the frames of the answers."""
        wants_usage = bool(self.body.stream_options and self.body.stream_options.include_usage)
        extra = {"usage": None} if wants_usage else {}
        async with aclosing(merged(self.streams)) as events:  # type: ignore[type-var]
            if self.body.echo:
                for place, choice in enumerate(self.choices):
                    yield self._chunk(self._echo(self.prompts[place // self.tried], choice), extra)
            async for place, event in events:
                choice = self.choices[place]
                choice.push(event)
                self.service.note_event(self.context, event)
                if not event.text and choice.finish_reason is None:
                    continue
                logprobs = self._logprobs(place, choice.take_logprobs())
                told = _object(choice, event.text, logprobs, choice.finish_reason)
                yield self._chunk({**told, **self._state(choice)}, extra)
        usage = self._usage()
        if wants_usage:
            yield sse.frame({**self._head(), "choices": [], "usage": usage})
        yield sse.DONE

    def _choice(self, prompt: _Prompt, choice: Choice) -> dict[str, Any]:
        text = prompt.text + choice.text if self.body.echo else choice.text
        own = choice.take_logprobs()
        logprobs = None
        if self.body.logprobs is not None:
            before = prompt.scored.logprobs if prompt.scored is not None else []
            tokens = [*(prompt.tokens if before else []), *(one.token for one in own)]
            logprobs, _ = logprobs_object(self.service.tokenizer, [*before, *own], 0, tokens)
        return {**_object(choice, text, logprobs, choice.finish_reason), **self._state(choice)}

    def _state(self, choice: Choice) -> dict[str, str]:
        """Store the state after an answer, if the request wants it; return its name."""
        if choice.state is None:
            return {}
        name = new_id("state_")
        self.service.keep_state(self.context.owner, name, choice.state)
        return {"state": name}

    def _echo(self, prompt: _Prompt, choice: Choice) -> dict[str, Any]:
        logprobs = None
        if prompt.scored is not None:
            logprobs, _ = logprobs_object(self.service.tokenizer, prompt.scored.logprobs, 0, prompt.tokens)
        return _object(choice, prompt.text, logprobs, None)

    def _logprobs(self, place: int, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        tokens = [one.token for one in logprobs]
        result, self._offsets[place] = logprobs_object(self.service.tokenizer, logprobs, self._offsets[place], tokens)
        return result

    def _usage(self) -> dict[str, Any]:
        usage = total_usage(self.choices, len(self.prompts))
        scored = sum(len(prompt.tokens) for prompt in self.prompts if prompt.scored is not None)
        usage = replace(usage, prompt_tokens=usage.prompt_tokens + scored) if scored else usage
        self.service.note_usage(self.context, usage)
        return usage_object(usage)

    def _head(self) -> dict[str, Any]:
        fingerprint = f"fp_{self.service.model.fingerprint[:12]}"
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }

    def _chunk(self, choice: dict[str, Any], extra: dict[str, Any]) -> bytes:
        return sse.frame({**self._head(), "choices": [choice], **extra})


def _object(choice: Choice, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _mean_logprob(choice: Choice) -> float:
    """Return the mean log-probability of an answer's tokens."""
    values = [one.logprob for one in choice.logprobs]
    return sum(values) / len(values) if values else -math.inf
