"""Requests of records: the fields of plain records and of OpenAI's bodies, and the answers in the same format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from rwkv_cy.batch import openai_format
from rwkv_cy.batch.records import Record
from rwkv_cy.batch.task import check_url, tokens_of
from rwkv_cy.chat import FORMATS, AnswerParser, AnyFormat, Conversation, Message, Prompt, build_prompt, choose_format
from rwkv_cy.chat.answers import Answer
from rwkv_cy.engine import Event, Request, Usage
from rwkv_cy.errors import FormatError, GenerationError, TokenizerError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import dataclass, field
from rwkv_cy.text import SamplingOptions
from rwkv_cy.text.sampling.options import check_natural
from rwkv_cy.text.start import first_tokens

__all__ = ["OPTIONAL_FIELDS", "Answering", "Defaults"]

#: Fields of a record that are fields of SamplingOptions, by the same names.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decay",
    "repetition_penalty",
)
#: Fields that would change the answer and are not supported, with the values that do not matter.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "stream": (False,),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}
#: Fields that have an effect, or are refused.
OPTIONAL_FIELDS = (*_SAMPLING, "max_tokens", "max_completion_tokens", "seed", "stop", "logit_bias", *_REFUSED)
_FINISH = {"length": "length", "stop_token": "stop", "stop_string": "stop"}
_MOST_STOPS, _SEEDS = 16, 1 << 63


@dataclass(frozen=True)
class Defaults:
    """What records get that do not say it, and what their answers have in common.

    Attributes
    ----------
    max_tokens : int
    stop : sequence of str
    sampling : mapping
    format : str
        Prompt format of chats.
    path : Path or None
        The model, by which the format is chosen.
    created : int
        The time in response objects.
    """

    max_tokens: int
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]
    format: str
    path: Path | None
    created: int

    @cached_property
    def chat(self) -> AnyFormat:
        """The prompt format of chats."""
        if self.path is None and self.format == "auto":
            return FORMATS["world"]
        return choose_format(self.path or "", self.format)


@dataclass
class Answering:
    """A record, its request, and the text so far."""

    record: Record
    request: Request
    created: int
    parser: AnswerParser | None = None
    content: Answer = field(default_factory=Answer)
    text: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def of(cls, model: LanguageModel, record: Record, defaults: Defaults, seed: int) -> Answering:
        """Return the request of a record.

        Parameters
        ----------
        model : LanguageModel
        record : Record
        defaults : Defaults
        seed : int
            If the record does not have one.

        Raises
        ------
        RWKVError
            If a field is missing, of another type, out of range, or not supported.
        """
        check_url(record, openai_format.COMPLETIONS, openai_format.CHAT)
        _check_supported(record.fields)
        prompt = _prompt(model, record, defaults)
        request = Request(
            prompt=prompt.tokens,
            options=_sampling(record, {**prompt.sampling, **defaults.sampling}),
            max_tokens=_max_tokens(record, defaults.max_tokens),
            stop=(*(_stops(record) or defaults.stop), *prompt.stops),
            seed=_seed(record, seed),
            message_ends=prompt.message_ends,
        )
        answering = cls(record, request, defaults.created)
        if record.url == openai_format.CHAT:
            answering.parser = AnswerParser()
            answering.content.add(answering.parser.push(prompt.opening))
        return answering

    def push(self, event: Event) -> None:
        """Take an event of the engine."""
        self.text += event.text
        if self.parser is not None:
            self.content.add(self.parser.push(event.text))
        if event.finish_reason is not None:
            if self.parser is not None:
                self.content.add(self.parser.finish())
            self.finish_reason = _FINISH.get(event.finish_reason, event.finish_reason)
            self.usage = event.usage or self.usage

    def answer(self) -> Mapping[str, Any]:
        """Return the line of the output file, without what differs between runs."""
        usage = {"prompt_tokens": self.usage.prompt_tokens, "completion_tokens": self.usage.completion_tokens}
        record = self.record
        if not record.url:
            return {"id": record.id, "text": self.text, "finish_reason": self.finish_reason, **usage}
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self.finish_reason}
        is_chat = record.url == openai_format.CHAT
        if is_chat:
            choice["message"] = {"role": "assistant", "content": self.content.content, "refusal": None}
            if self.content.reasoning:
                choice["message"]["reasoning_content"] = self.content.reasoning
        else:
            choice["text"] = self.text
        body = {
            "id": openai_format.object_id("chatcmpl-" if is_chat else "cmpl-", record.id, record.place),
            "object": "chat.completion" if is_chat else "text_completion",
            "created": self.created,
            "model": str(record.fields.get("model", "")),
            "choices": [choice],
            "usage": {**usage, "total_tokens": self.usage.total_tokens},
        }
        return openai_format.response(record.id, record.place, body)


def _check_supported(fields: Mapping[str, Any]) -> None:
    for name, harmless in _REFUSED.items():
        if name in fields and fields[name] not in harmless:
            raise FormatError(f"{name}: expected none, since batches do not support it, got {str(fields[name])[:80]}")


def _prompt(model: LanguageModel, record: Record, defaults: Defaults) -> Prompt:
    """Return what the model reads: a text or tokens as they are, or a conversation in the chat format."""
    if record.url != openai_format.CHAT:
        if record.fields.get("prompt") in ("", []) and model.tokenizer is not None:
            return Prompt(first_tokens(model.tokenizer), (), (), "", (), {})
        return Prompt(tokens_of(model, record, "prompt").tolist(), (), (), "", (), {})
    if model.tokenizer is None:
        raise TokenizerError("messages: expected a model with a tokenizer, got one without; name one with --tokenizer")
    given = record.fields.get("messages")
    if not isinstance(given, list) or not given:
        raise FormatError(f"messages: expected an array of at least one, got {str(given)[:80]}")
    messages = [_message(place, one) for place, one in enumerate(given)]
    return build_prompt(defaults.chat, Conversation(messages), model.tokenizer)


def _message(place: int, given: Any) -> Message:
    where = f"messages[{place}]"
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise FormatError(f"{where}: expected an object with a role, got {str(given)[:80]}")
    content = given.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        if len(texts) < len(content):
            raise FormatError(f"{where}.content: expected parts of text, got another kind; the model reads text only")
        content = "".join(texts)
    if not isinstance(content, str):
        raise FormatError(f"{where}.content: expected a text, got {str(content)[:80]}")
    return Message(given["role"], content)


def _sampling(record: Record, defaults: Mapping[str, Any]) -> SamplingOptions:
    own = {name: record.fields[name] for name in _SAMPLING if name in record.fields}
    if record.url and {"presence_penalty", "frequency_penalty"} & set(own):
        own.setdefault("penalty_decay", 1.0)  # OpenAI's penalties count every token the same
    bias = record.fields.get("logit_bias")
    if bias is not None:
        if not isinstance(bias, Mapping) or not all(key.isascii() and key.isdigit() for key in bias):
            raise GenerationError(f"logit_bias: expected an object of token ids and numbers, got {str(bias)[:80]}")
        own["logit_bias"] = {int(key): value for key, value in bias.items()}
    return SamplingOptions(**{**defaults, **own})


def _max_tokens(record: Record, default: int) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        if name in record.fields:
            check_natural(name, record.fields[name], 1 << 30)
            return int(record.fields[name])
    return default


def _stops(record: Record) -> tuple[str, ...]:
    given = record.fields.get("stop", ())
    stops = (given,) if isinstance(given, str) else given
    fits = isinstance(stops, (list, tuple)) and len(stops) <= _MOST_STOPS
    if not fits or not all(isinstance(text, str) and text for text in stops):
        raise GenerationError(f"stop: expected a text, or at most {_MOST_STOPS} of them, got {str(given)[:80]}")
    return tuple(stops)


def _seed(record: Record, default: int) -> int:
    seed = record.fields.get("seed", default)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise GenerationError(f"seed: expected an integer, got {str(seed)[:80]}")
    return seed % _SEEDS
