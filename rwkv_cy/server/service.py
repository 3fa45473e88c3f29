"""The service: a model, its engine and what they share, independent of HTTP."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from rwkv_cy.chat import AnyFormat, Conversation, EncodedTexts, Message, Prompt, build_prompt
from rwkv_cy.engine import AsyncEngine, Event, Request, Usage
from rwkv_cy.engine.async_engine import EventStream
from rwkv_cy.errors import BusyError, TokenizerError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass
from rwkv_cy.server.errors import ApiError, invalid
from rwkv_cy.server.http import Context
from rwkv_cy.server.logs import Log
from rwkv_cy.server.metrics import Metrics
from rwkv_cy.server.settings import Settings
from rwkv_cy.server.stores import OwnedStore
from rwkv_cy.server.texts import close_all
from rwkv_cy.text import Tokenizer

__all__ = ["Service", "StoredResponse"]

_T = TypeVar("_T")
#: Texts of more characters are encoded in a thread, so that other requests go on.
_LONG = 20_000


@dataclass(frozen=True)
class StoredResponse:
    """A response that later ones refer to: its object, and the conversation up to its end."""

    body: dict[str, Any]
    messages: tuple[Message, ...]


def _busy() -> ApiError:
    return ApiError(
        429, "too many requests wait for this model; try again", "rate_limit_error", code="busy", retry_after=1
    )


class Service:
    """What the routes work with.

    Parameters
    ----------
    model : LanguageModel
        With a tokenizer.
    engine : AsyncEngine
        Running as long as the service is used.
    chat : ChatFormat or TemplateFormat
    settings : Settings
    log : Log, optional

    Raises
    ------
    TokenizerError
        If the model does not have a tokenizer.
    """

    def __init__(
        self, model: LanguageModel, engine: AsyncEngine, chat: AnyFormat, settings: Settings, log: Log | None = None
    ) -> None:
        if model.tokenizer is None:
            raise TokenizerError("serve: expected a model with a tokenizer, got none; name one with --tokenizer")
        self.model = model
        self.tokenizer: Tokenizer = model.tokenizer
        self.engine = engine
        self.chat = chat
        self.settings = settings
        self.metrics = Metrics()
        self.log = log if log is not None else Log()
        self.states: OwnedStore[State] = OwnedStore("state", settings.limits.state_bytes)
        self.responses: OwnedStore[StoredResponse] = OwnedStore("response", settings.limits.response_bytes)
        self._encoded = EncodedTexts(self.tokenizer, settings.limits.text_bytes)
        self.created = int(time.time())
        self.closing = False
        self._beside = asyncio.Semaphore(1)
        self._beside_waiting = 0

    @property
    def vocab_size(self) -> int:
        """Ids that stand for text."""
        return min(self.model.vocab_size, self.tokenizer.vocab_size)

    def check_model(self, name: str | None) -> str:
        """Return the model's name; ApiError if a request names another one."""
        settings = self.settings
        if name and name != settings.name and name not in settings.aliases:
            raise ApiError(
                404,
                f"model {name[:100]!r} does not exist; this server has {settings.name!r}",
                param="model",
                code="model_not_found",
            )
        return settings.name

    async def prompt(self, conversation: Conversation, partition: str = "") -> Prompt:
        """Return the prompt of a conversation; each of its messages is encoded once in each partition of the cache."""
        size = sum(len(message.content) for message in conversation.messages)
        prompt: Prompt = await self.aside(size > _LONG, build_prompt, self.chat, conversation, self._encoded, partition)
        self._check_length(prompt.tokens)
        return prompt

    async def encode(self, param: str, text: str) -> list[int]:
        """Return the tokens of a text."""
        tokens: list[int] = await self.aside(len(text) > _LONG, self.tokenizer.encode, text)
        self._check_length(tokens, param)
        return tokens

    def check_tokens(self, param: str, tokens: Sequence[Any]) -> list[int]:
        """Return token ids that a client sent; ApiError if there are none, too many, or one is not an id."""
        self._check_length(tokens, param)
        size = self.model.vocab_size
        for token in tokens:
            if type(token) is not int or not 0 <= token < size:
                raise invalid(param, f"expected token ids below {size}, got {str(token)[:20]}")
        return list(tokens)

    async def beside(self, function: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
        """Call a function that runs the model in a thread, one at a time, beside the engine.

        Raises
        ------
        ApiError
            If too many calls wait, with the status 429.
        """
        if self._beside_waiting >= self.settings.limits.queue:
            raise _busy()
        self._beside_waiting += 1
        try:
            async with self._beside:
                return await asyncio.to_thread(function, *arguments, **options)
        finally:
            self._beside_waiting -= 1

    async def aside(self, long: bool, function: Any, *arguments: Any) -> Any:
        """Call a function, in a thread if it may take long."""
        return await asyncio.to_thread(function, *arguments) if long else function(*arguments)

    def submit(self, requests: Sequence[Request]) -> list[EventStream]:
        """Start requests, all or none of them.

        Raises
        ------
        ApiError
            If the queue is full, with the status 429; if they are more than it ever takes, with the status 400.
        """
        if len(requests) > self.engine.engine.capacity:
            most = self.engine.engine.capacity
            raise invalid(
                None, f"the request has {len(requests)} answers, and this server takes at most {most} at once"
            )
        if self.closing:
            raise ApiError(503, "the server is shutting down", "unavailable_error", retry_after=5)
        streams: list[EventStream] = []
        try:
            for request in requests:
                streams.append(self.engine.submit(request))
        except BusyError:
            close_all(streams)
            raise _busy() from None
        except BaseException:
            close_all(streams)
            raise
        return streams

    def max_tokens(self, *requested: int | None) -> int:
        """Return the limit of an answer's tokens: the first that a request names, at most the server's own."""
        most = self.settings.limits.max_tokens
        return min(next((value for value in requested if value is not None), most), most)

    def partition(self, context: Context, key: str | None) -> str:
        """Return the name of a part of the cache: users with different keys share nothing, even in time."""
        return f"{context.owner}/{key or ''}"

    def note_usage(self, context: Context, usage: Usage) -> None:
        """Count the tokens of a request."""
        computed = usage.prompt_tokens - usage.cached_tokens
        for kind, count in (("computed", computed), ("cached", usage.cached_tokens)):
            self.metrics.tokens.labels(kind).inc(max(0, count))
        self.metrics.tokens.labels("generated").inc(usage.completion_tokens)
        self.metrics.drafts.labels("proposed").inc(usage.drafted_tokens)
        self.metrics.drafts.labels("accepted").inc(usage.accepted_tokens)
        context.notes.update(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )

    def note_event(self, context: Context, event: Event) -> None:
        """Count the times of a text that has ended."""
        if event.timings is None or event.usage is None:
            return
        self.metrics.first_token.observe(event.timings.first_token)
        if event.usage.completion_tokens > 1:
            self.metrics.per_token.observe(event.timings.decode / (event.usage.completion_tokens - 1))
        context.notes.setdefault("first_token_seconds", round(event.timings.first_token, 4))

    def keep_state(self, owner: str, name: str, state: State) -> None:
        """Store a state under a name."""
        self.states.add(owner, name, state, state.nbytes)

    def metrics_page(self) -> bytes:
        """Return all metrics as text."""
        cache = self.engine.engine.cache
        if cache is not None:
            with suppress(RuntimeError):  # the engine's thread has changed the cache meanwhile: the last figures stay
                self.metrics.note_cache(cache.stats)
        return self.metrics.page()

    def note_error(self, context: Context, error: ApiError, cause: BaseException | None = None) -> None:
        """Log an error: what a client did wrong in one word, an error of the server with its traceback."""
        context.notes["error"] = error.code or error.kind
        if error.status == 500 and cause is not None:
            trace = "".join(traceback.format_exception(cause))
            self.log.error(id=context.id, route=context.route, error=type(cause).__name__, traceback=trace)

    def note_request(self, context: Context, method: str, status: int, seconds: float) -> None:
        """Count and log a request that has ended."""
        if context.notes.get("disconnected"):
            self.metrics.disconnects.inc()
        self.metrics.requests.labels(context.route, str(status)).inc()
        self.metrics.duration.labels(context.route).observe(seconds)
        self.log.request(
            id=context.id, method=method, route=context.route, status=status, seconds=round(seconds, 4), **context.notes
        )

    def _check_length(self, tokens: Sequence[Any], param: str = "messages") -> None:
        most = self.settings.limits.prompt_tokens
        if not tokens:
            raise invalid(param, "expected at least one token, got none")
        if len(tokens) > most:
            raise invalid(param, f"expected at most {most} tokens, got {len(tokens)}", "context_length_exceeded")
