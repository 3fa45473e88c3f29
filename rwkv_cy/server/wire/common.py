"""What several APIs have in common: texts, tools, sampling fields, usage, identifiers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from rwkv_cy.chat import Tool
from rwkv_cy.engine import Timings, TokenLogprobs, Usage
from rwkv_cy.server.errors import invalid
from rwkv_cy.text import SamplingKeywords, SamplingOptions, Tokenizer

__all__ = [
    "FORMS_OF_TEXT",
    "Function",
    "Natural",
    "Part",
    "SamplingFields",
    "joined_text",
    "json_logprob",
    "new_id",
    "progress_object",
    "read_tool_choice",
    "sampling_options",
    "seed_of",
    "stop_strings",
    "timings_object",
    "token_logprob",
    "usage_object",
]

Natural = Annotated[int, msgspec.Meta(ge=0)]
#: Types of content parts that hold text.
FORMS_OF_TEXT = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
#: Log-probabilities that JSON cannot hold, as in OpenAI's API.
_LEAST_LOGPROB = -9999.0
_SEEDS = 1 << 63


class Part(msgspec.Struct):
    """A part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None

    @property
    def breakpoint(self) -> bool:
        """Whether the client asks for a snapshot after it."""
        return self.prompt_cache_breakpoint is not None or self.cache_control is not None


class Function(msgspec.Struct):
    """A tool's definition."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """Return it as chat formats take it."""
        return Tool(self.name, self.description or "", self.parameters or {}, bool(self.strict))


class SamplingFields(msgspec.Struct, kw_only=True):
    """How tokens are chosen. Beyond OpenAI's fields: `top_k`, `penalty_decay`, `repetition_penalty`, `no_cache`."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None
    penalty_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=0.01, le=100)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    no_cache: bool = False
    state: str | None = None
    return_state: bool = False


def new_id(prefix: str) -> str:
    """Return an identifier."""
    return f"{prefix}{uuid.uuid4().hex}"


def joined_text(param: str, content: str | Sequence[Part] | None) -> tuple[str, bool]:
    """Return the text of a message's content, and whether it has a breakpoint.

    Raises
    ------
    ApiError
        If a part is not text.
    """
    if content is None or isinstance(content, str):
        return content or "", False
    texts = []
    for place, part in enumerate(content):
        if part.type not in FORMS_OF_TEXT:
            raise invalid(f"{param}[{place}].type", f"expected text, got {part.type[:40]!r}; the model reads text only")
        texts.append(part.text if part.text is not None else part.refusal or "")
    return "".join(texts), any(part.breakpoint for part in content)


def sampling_options(fields: SamplingFields, defaults: SamplingKeywords, vocab_size: int) -> SamplingOptions:
    """Return the options of a request: what it names, and the defaults for the rest.

    Penalties that a request names count every token the same, as in OpenAI's API, unless it names a `penalty_decay`.

    Raises
    ------
    ApiError
        If `logit_bias` has something else than token ids.
    """
    names = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "penalty_decay", "repetition_penalty")
    own: dict[str, Any] = {name: value for name in names if (value := getattr(fields, name)) is not None}
    if fields.presence_penalty is not None or fields.frequency_penalty is not None:
        own.setdefault("penalty_decay", 1.0)
    if fields.top_k is not None:
        own["top_k"] = max(0, fields.top_k)
    if fields.logit_bias:
        own["logit_bias"] = {_token_id(key, vocab_size): value for key, value in fields.logit_bias.items()}
    return SamplingOptions(**{**defaults, **own})


def seed_of(fields: SamplingFields, choice: int) -> int | None:
    """Return the seed of one of several choices."""
    return None if fields.seed is None else (fields.seed + choice) % _SEEDS


def stop_strings(param: str, stop: str | Sequence[str] | None, most: int) -> tuple[str, ...]:
    """Return the stop strings of a request; ApiError if there are too many, or one is empty."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > most:
        raise invalid(param, f"expected at most {most} strings, got {len(stops)}")
    if not all(stops):
        raise invalid(param, "expected strings of at least one character, got an empty one")
    if any(len(text) > 1000 for text in stops):
        raise invalid(param, "expected strings of at most 1000 characters, got a longer one")
    return stops


def read_tool_choice(choice: str | Mapping[str, Any] | None) -> str:
    """Return a tool choice as a conversation has it: of OpenAI's two APIs, a word or an object with a name."""
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise invalid("tool_choice", f"expected auto, none, required or a function, got {choice[:40]!r}")
        return choice
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, Mapping) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise invalid("tool_choice", "expected an object of type function with a name")
    return f"function:{name}"


def token_logprob(tokenizer: Tokenizer, logprobs: TokenLogprobs) -> dict[str, Any]:
    """Return the object for a token: its text, its bytes, which may be half a character, and the likeliest others."""
    top = [_token(tokenizer, token, value) for token, value in logprobs.top]
    return {**_token(tokenizer, logprobs.token, logprobs.logprob), "top_logprobs": top}


def usage_object(usage: Usage, reasoning: int = 0, *, predicted: bool = False) -> dict[str, Any]:
    """Return OpenAI's object for tokens that were read and generated.

    Parameters
    ----------
    usage : Usage
    reasoning : int
        Tokens of reasoning.
    predicted : bool
        Whether the request had a prediction: the figures of speculation are about it.
    """
    accepted, drafted = (usage.accepted_tokens, usage.drafted_tokens) if predicted else (0, 0)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": drafted - accepted,
        },
    }


def timings_object(usage: Usage, timings: Timings) -> dict[str, float]:
    """Return how long a request took, under the names that llama.cpp uses."""
    computed = usage.prompt_tokens - usage.cached_tokens
    return {
        "queue_ms": 1000 * timings.queued,
        "cache_n": usage.cached_tokens,
        "prompt_n": computed,
        "prompt_ms": 1000 * timings.prefill,
        "prompt_per_second": computed / timings.prefill if timings.prefill else 0.0,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": 1000 * timings.decode,
        "predicted_per_second": (usage.completion_tokens - 1) / timings.decode if timings.decode else 0.0,
        "draft_n": usage.drafted_tokens,
        "draft_n_accepted": usage.accepted_tokens,
    }


def progress_object(read: int, total: int) -> dict[str, int]:
    """Return how far a prompt is read, as llama.cpp does; tokens from the cache count as read."""
    return {"processed": read, "total": total}


def json_logprob(value: float) -> float:
    """Return a log-probability that JSON can hold."""
    return max(value, _LEAST_LOGPROB)


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.decode_bytes([token]) if token < tokenizer.vocab_size else b""
    return {"token": data.decode("utf-8", "replace"), "logprob": json_logprob(logprob), "bytes": list(data)}


def _token_id(key: str, vocab_size: int) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= vocab_size:
        raise invalid("logit_bias", f"expected token ids below {vocab_size}, got {key[:20]!r}")
    return int(key)
