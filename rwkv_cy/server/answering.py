"""A chat's answer from conversation to streams: what the chat, responses and messages APIs have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from rwkv_cy.chat import Answer, Conversation, Message, Prompt
from rwkv_cy.chat import Event as Piece
from rwkv_cy.engine import Event, Request, Usage
from rwkv_cy.engine.async_engine import EventStream
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass, field, replace
from rwkv_cy.server.constraints import call_constraints
from rwkv_cy.server.errors import ApiError, not_supported
from rwkv_cy.server.http import Context
from rwkv_cy.server.service import Service
from rwkv_cy.server.texts import Choice, merged, total_usage
from rwkv_cy.server.wire.common import SamplingFields, new_id, sampling_options, seed_of
from rwkv_cy.text import LogitsProcessor

__all__ = ["Answering", "begin", "read_state"]


@dataclass
class Answering:
    """Answers to one conversation, in progress.

    Attributes
    ----------
    service : Service
    context : Context
    conversation : Conversation
    prompt : Prompt
    choices : list of Choice
    states : list of str
        Names of the states after the answers, once they are complete, if the request wants them.
    """

    service: Service
    context: Context
    conversation: Conversation
    prompt: Prompt
    choices: list[Choice]
    streams: list[EventStream]
    base: State | None = None
    keep_states: bool = False
    cache_key: str | None = None
    states: list[str] = field(default_factory=list)

    async def run(self) -> AsyncIterator[tuple[Choice, Event, list[Piece]]]:
        """Yield each event with the pieces of the answer that it completes; closing it cancels what is in progress."""
        async with aclosing(merged(self.streams)) as events:  # type: ignore[type-var]
            async for place, event in events:
                choice = self.choices[place]
                pieces = choice.push(event)
                self.service.note_event(self.context, event)
                yield choice, event, pieces
        self.service.note_usage(self.context, self.usage)
        if self.keep_states:
            self.states = [await self._keep(choice.answer) for choice in self.choices]

    async def complete(self) -> None:
        """Wait until all answers are complete."""
        async with aclosing(self.run()) as steps:  # type: ignore[type-var]
            async for _ in steps:
                pass

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt and of all answers."""
        return total_usage(self.choices)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of reasoning in all answers."""
        return sum(choice.reasoning_tokens for choice in self.choices)

    async def _keep(self, answer: Answer) -> str:
        """Store the state after the conversation with the answer, as a next turn has it; return its name."""
        messages = [*self.conversation.messages, message_of(answer)]
        # The end of the answer is where the next message begins.
        following = replace(self.conversation, messages=[*messages, Message("user", "x")], thinking="off")
        prompt = await self.service.prompt(following, self.service.partition(self.context, self.cache_key))
        if len(prompt.message_ends) < 2:
            raise not_supported("return_state: the chat template does not tell where messages end", "return_state")
        tokens = prompt.tokens[: prompt.message_ends[-2]]
        state = await read_state(self.service, self.context, tokens, self.base, self.cache_key)
        name = new_id("state_")
        self.service.keep_state(self.context.owner, name, state)
        return name


def message_of(answer: Answer) -> Message:
    """Return an answer as a message of the conversation."""
    return Message("assistant", answer.content, answer.reasoning, tuple(answer.calls))


async def begin(
    service: Service,
    context: Context,
    conversation: Conversation,
    fields: SamplingFields,
    *,
    max_tokens: int,
    stops: Sequence[str] = (),
    count: int = 1,
    logprobs: int | None = None,
    constraints: Sequence[Sequence[LogitsProcessor]] = (),
    **more: Any,
) -> Answering:
    """Submit the requests that answer a conversation.

    Parameters
    ----------
    service : Service
    context : Context
    conversation : Conversation
    fields : SamplingFields
    max_tokens : int
    stops : sequence of str
        Of the client, beside those of the format.
    count : int
        Answers.
    logprobs : int, optional
        As in a Request.
    constraints : sequence of sequences of LogitsProcessor
        Of each answer. A restricted answer begins without a thought, and calls no tools. Those of calls are added.
    **more
        Other fields of a Request.
    """
    restricted = any(constraints)
    if restricted:
        conversation = replace(conversation, thinking="off", tool_choice="none")
    partition = service.partition(context, fields.prompt_cache_key)
    prompt = await service.prompt(conversation, partition)
    exact = False
    if not restricted:
        constraints, exact = await call_constraints(service, conversation, prompt.opening, count)
    base = service.states.get(context.owner, fields.state, "state") if fields.state else None
    request = Request(
        prompt=prompt.tokens,
        options=sampling_options(fields, prompt.sampling, service.vocab_size),
        max_tokens=max_tokens,
        stop=(*stops, *prompt.stops),
        logprobs=logprobs,
        state=base,
        cache=not fields.no_cache,
        cache_key=partition,
        breakpoints=prompt.breakpoints,
        message_ends=prompt.message_ends,
        **more,
    )
    names = [tool.name for tool in conversation.callable_tools]
    choices = [Choice.of_chat(index, prompt.opening, names, exact) for index in range(count)]
    requests = [replace(request, seed=seed_of(fields, index)) for index in range(count)]
    if any(constraints):
        requests = [replace(one, constraints=own) for one, own in zip(requests, constraints, strict=True)]
    streams = service.submit(requests)
    keep, key = fields.return_state, fields.prompt_cache_key
    return Answering(service, context, conversation, prompt, choices, streams, base, keep, key)


async def read_state(
    service: Service, context: Context, tokens: Sequence[int], base: State | None = None, key: str | None = None
) -> State:
    """Return the state after tokens.

    Parameters
    ----------
    service : Service
    context : Context
    tokens : sequence of int
    base : State, optional
        The state before them.
    key : str, optional
        The client's `prompt_cache_key`.
    """
    request = Request(
        prompt=tokens,
        max_tokens=0,
        return_state=True,
        state=base,
        cache_key=service.partition(context, key),
        message_ends=(len(tokens),),
    )
    (stream,) = service.submit([request])
    choice = Choice(0)
    async with aclosing(merged([stream])) as events:  # type: ignore[type-var]
        async for _, event in events:
            choice.push(event)
    if choice.state is None:  # the server is ending, and has cancelled what runs
        raise ApiError(503, "the request was ended before its text was read", "unavailable_error", retry_after=5)
    return choice.state
