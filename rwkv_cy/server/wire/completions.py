"""OpenAI's completions: requests, and the log-probabilities of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from rwkv_cy.engine import TokenLogprobs
from rwkv_cy.server.wire.chat import StreamOptions
from rwkv_cy.server.wire.common import Natural, SamplingFields, json_logprob
from rwkv_cy.text import Tokenizer

__all__ = ["CompletionRequest", "logprobs_object"]


class CompletionRequest(SamplingFields, kw_only=True):
    """A request; fields that are not here have no effect."""

    prompt: str | list[Any] = ""
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_tokens: Natural | None = None
    stop: str | list[str] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    response_format: dict[str, Any] | None = None


def logprobs_object(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs | None], offset: int, tokens: Sequence[int]
) -> tuple[dict[str, Any], int]:
    """Return the object for tokens, and the offset of the text after them.

    Parameters
    ----------
    tokenizer : Tokenizer
    logprobs : sequence of TokenLogprobs or None
        None for a token that nothing predicts: the first of a text.
    offset : int
        Characters of the text before them.
    tokens : sequence of int
    """
    texts, offsets = [], []
    for token in tokens:
        text = tokenizer.decode([token]) if token < tokenizer.vocab_size else ""
        texts.append(text)
        offsets.append(offset)
        offset += len(text)
    top = [None if one is None else _top(tokenizer, one) for one in logprobs]
    values = [None if one is None else json_logprob(one.logprob) for one in logprobs]
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}, offset


def _top(tokenizer: Tokenizer, logprobs: TokenLogprobs) -> dict[str, float]:
    """Return the likeliest tokens and the token itself; of tokens with the same text, the likeliest."""
    result: dict[str, float] = {}
    for token, value in (*logprobs.top, (logprobs.token, logprobs.logprob)):
        text = tokenizer.decode([token]) if token < tokenizer.vocab_size else ""
        result.setdefault(text, json_logprob(value))
    return result
