"""``/v1/decisions``: the input is read once, and its state is forked for every question."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.chat import Conversation, Message
from rwkv_cy.engine import Request, Usage
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State
from rwkv_cy.server.answering import read_state
from rwkv_cy.server.http import Context, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.texts import Choice, merged
from rwkv_cy.server.wire.decisions import DecisionRequest, answer_object, candidates, instructions_of, messages_of
from rwkv_cy.server.wire.responses import response_usage
from rwkv_cy.text.score import log_softmax

__all__ = ["create"]


async def create(service: Service, context: Context, body: DecisionRequest) -> Reply:
    """Answer questions about an input with probabilities."""
    model = service.check_model(body.model)
    messages = messages_of(body)
    words = [candidates(place, question) for place, question in enumerate(body.questions)]
    prefix: list[int] = []
    state: State | None = None
    answers, read = [], 0
    for place, (question, own) in enumerate(zip(body.questions, words, strict=True)):
        asked = Message("user", instructions_of(place, question, own))
        prompt = await service.prompt(
            Conversation([*messages, asked], thinking="off"), service.partition(context, body.prompt_cache_key)
        )
        common = prompt.message_ends[-2] if len(prompt.message_ends) > 1 else 0
        if common and prompt.tokens[:common] != prefix:
            prefix = prompt.tokens[:common]
            state = await read_state(service, context, prefix, key=body.prompt_cache_key)
            read += common
        start = len(prefix) if common else 0
        read += len(prompt.tokens) - start
        after, logits = await _ask(service, context, prompt.tokens[start:], state if common else None)
        endings = [service.tokenizer.encode(" " + word.strip()) for word in own]
        scores = await service.beside(_scores, service.model, endings, after, logits)
        answers.append(answer_object(question, _probabilities(scores)))
    usage = Usage(prompt_tokens=read)
    service.note_usage(context, usage)
    return {"model": model, "answers": answers, "usage": response_usage(usage, 0)}


async def _ask(
    service: Service, context: Context, tokens: Sequence[int], state: State | None
) -> tuple[State, npt.NDArray[Any]]:
    """Return the state and the logits after a question."""
    key = service.partition(context, None)
    request = Request(prompt=tokens, max_tokens=0, return_state=True, state=state, cache=False, cache_key=key)
    (stream,) = service.submit([request])
    choice = Choice(0)
    async with aclosing(merged([stream])) as events:  # type: ignore[type-var]
        async for _, event in events:
            choice.push(event)
            if event.state is not None and event.logits is not None:
                return event.state, event.logits
    raise RuntimeError("engine: expected a state at the end of a request, got none")


def _scores(
    model: LanguageModel, endings: Sequence[Sequence[int]], state: State, logits: npt.NDArray[Any]
) -> list[float]:
    """Return the log-probability of each ending; all but their first tokens are run from forks of the state."""
    first = log_softmax(logits)
    scores = []
    for tokens in endings:
        total = float(first[tokens[0]])
        if len(tokens) > 1:
            rows, _ = model.forward(tokens[:-1], state, all_logits=True)
            total += sum(float(log_softmax(row)[token]) for row, token in zip(rows, tokens[1:], strict=True))
        scores.append(total)
    return scores


def _probabilities(scores: Sequence[float]) -> list[float]:
    """Return probabilities that sum to 1."""
    weights = np.exp(np.asarray(scores) - max(scores))
    return [float(weight) for weight in weights / weights.sum()]
