"""OpenAI's decisions: questions about an input, answered by probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from rwkv_cy.chat import Message
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.wire.common import Part, joined_text
from rwkv_cy.server.wire.responses import Item, ResponseRequest, conversation_of

__all__ = ["DecisionRequest", "Question", "answer_object", "candidates", "instructions_of", "messages_of"]

_MOST_CHOICES = 255


class Option(msgspec.Struct):
    """One of the values to choose from."""

    value: str | bool
    description: str | None = None


class Level(msgspec.Struct):
    """One of the levels of a score, in ascending order."""

    label: str
    description: str | None = None


class Question(msgspec.Struct):
    """A question: how likely a statement is, which option fits, or which level."""

    type: str
    instructions: str | list[Part]
    name: str | None = None
    choices: list[Option] | None = None
    levels: list[Level] | None = None


class DecisionRequest(msgspec.Struct):
    """A request; fields that are not here have no effect."""

    input: str | list[Item]
    questions: Annotated[list[Question], msgspec.Meta(min_length=1, max_length=400)]
    model: str = ""
    prompt_cache_key: str | None = None


def messages_of(request: DecisionRequest) -> list[Message]:
    """Return the input as messages."""
    return list(conversation_of(ResponseRequest(input=request.input), (), "off").messages)


def candidates(place: int, question: Question) -> list[str]:
    """Return the words that the model may answer with.

    Raises
    ------
    ApiError
        If the question does not have as many as its type needs, or has one twice.
    """
    param = f"questions[{place}]"
    if question.type == "predicate":
        return ["yes", "no"]
    if question.type == "choice":
        words = [_word(option.value) for option in question.choices or ()]
        values = {(type(option.value), option.value) for option in question.choices or ()}
        param += ".choices"
    elif question.type == "score":
        words = [level.label for level in question.levels or ()]
        values = {(str, word) for word in words}
        param += ".levels"
    else:
        raise invalid(f"{param}.type", f"expected predicate, choice or score, got {question.type[:40]!r}")
    if not 2 <= len(words) <= _MOST_CHOICES:
        raise invalid(param, f"expected 2 to {_MOST_CHOICES}, got {len(words)}")
    if len(values) < len(words) or not all(word.strip() for word in words):
        raise invalid(param, "expected different values that are not empty")
    return words


def instructions_of(place: int, question: Question, words: list[str]) -> str:
    """Return what the model is asked, with the words that it may answer with."""
    text, _ = joined_text(f"questions[{place}].instructions", question.instructions)
    options: Sequence[Option | Level] = question.choices or question.levels or ()
    described = [
        f"{word}: {option.description}" for word, option in zip(words, options, strict=False) if option.description
    ]
    head = "Is this true? " if question.type == "predicate" else ""
    return "\n".join([head + text, *described, f"Answer with one of: {', '.join(words)}"])


def answer_object(question: Question, probabilities: list[float]) -> dict[str, Any]:
    """Return the answer to a question, from the probability of each of its words."""
    if question.type == "predicate":
        return {"type": "predicate", "name": question.name, "probability": probabilities[0]}
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    common = {"type": question.type, "name": question.name, "confidence": probabilities[best]}
    if question.type == "choice":
        values = [option.value for option in question.choices or ()]
        listed = [{"value": value, "probability": p} for value, p in zip(values, probabilities, strict=True)]
        return {**common, "choice": values[best], "probabilities": listed}
    levels = question.levels or ()
    listed_levels = [
        {"label": level.label, "value": value, "probability": p}
        for value, (level, p) in enumerate(zip(levels, probabilities, strict=True))
    ]
    score = sum(value * p for value, p in enumerate(probabilities))
    return {**common, "score": score, "probabilities": listed_levels}


def _word(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()
