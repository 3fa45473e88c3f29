"""The start of a text: checks every argument of a request for text, and makes the sequence of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from rwkv_cy.errors import GenerationError, TokenizerError
from rwkv_cy.records import replace
from rwkv_cy.text.sampling import LogitsProcessor, Sampler, SamplingOptions
from rwkv_cy.text.sampling.options import check_natural
from rwkv_cy.text.sequence import Sequence
from rwkv_cy.text.tokenizers import Tokenizer
from rwkv_cy.text.tokens import check_argument, check_tokens, require_model

__all__ = [
    "VocabularyModel",
    "first_tokens",
    "prompt_tokens",
    "resolve_tokenizer",
    "start_sequence",
    "unpenalised_tokens",
]

#: The ``rwkv`` package does not count a token whose text is a substring of this.
UNPENALISED = " \t0123456789"


class VocabularyModel(Protocol):
    """The part of a model's interface that the start of a text uses."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer, if it has one."""
        ...


def start_sequence(
    model: VocabularyModel,
    prompt: str | bytes | Iterable[int],
    *,
    has_state: bool = False,
    has_logits: bool = False,
    max_tokens: int | None = 256,
    options: SamplingOptions | None = None,
    logits_processors: Iterable[LogitsProcessor] = (),
    seed: np.random.Generator | int | None = None,
    stop: str | Iterable[str] = (),
    stop_tokens: Iterable[int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Sequence:
    """Return the sequence of a request for text, of which nothing is read yet.

    Parameters
    ----------
    model : VocabularyModel
    has_state, has_logits : bool, default False
        Whether the text continues from a state, and from known logits; the latter needs an empty prompt.
    prompt, max_tokens, options, logits_processors, seed, stop, stop_tokens, tokenizer
        As for :func:`rwkv_cy.text.generate`.

    Raises
    ------
    GenerationError
        If an option is out of range, a tokenizer is missing, or the prompt is empty and there are no logits to continue
        from.
    TokenizerError
        If the prompt cannot be encoded.
    TokenError
        If a token id is outside the vocabulary.
    """
    tokenizer = resolve_tokenizer(model, tokenizer)
    if max_tokens is not None:
        check_natural("max_tokens", max_tokens)
    options = SamplingOptions() if options is None else options
    check_argument("options", options, "SamplingOptions", attribute="penalty_free_tokens")
    if options.penalty_free_tokens is None and options.order == "rwkv":
        options = replace(options, penalty_free_tokens=unpenalised_tokens(tokenizer))
    if stop_tokens is None:
        stop_tokens = () if tokenizer.end_of_text is None else (tokenizer.end_of_text,)
    # Ids beyond the tokenizer's vocabulary do not stand for text, so that they are never chosen.
    sampler = Sampler(options, min(model.vocab_size, tokenizer.vocab_size), seed, logits_processors)
    tokens = prompt_tokens(prompt, tokenizer, model.vocab_size)
    if not tokens and not has_logits:
        tokens = first_tokens(tokenizer, has_state)
    elif has_logits and (tokens or not has_state):
        raise GenerationError("logits: expected them only with a state and an empty prompt; leave them out")
    return Sequence(
        tokens,
        tokenizer,
        sampler,
        stop=stop,
        stop_tokens=check_tokens(stop_tokens, max(model.vocab_size, tokenizer.vocab_size), "stop_tokens"),
        max_tokens=max_tokens,
    )


def resolve_tokenizer(model: VocabularyModel, tokenizer: Tokenizer | None) -> Tokenizer:
    """Return `tokenizer`, or the model's own if it is None.

    Raises
    ------
    ConfigError
        If `model` is not a model.
    GenerationError
        If there is none, or it is not a Tokenizer.
    """
    require_model(model, "vocab_size")
    tokenizer = tokenizer if tokenizer is not None else model.tokenizer
    if tokenizer is None:
        raise GenerationError('tokenizer: the model has none; pass tokenizer=rwkv_cy.text.find_tokenizer("...")')
    if not isinstance(tokenizer, Tokenizer):
        raise GenerationError(
            f"tokenizer: expected a Tokenizer, got {type(tokenizer).__name__}; rwkv_cy.text.find_tokenizer makes one"
        )
    return tokenizer


def unpenalised_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that the ``rwkv`` package does not count: spaces, tabs, digits and runs of them."""
    ends = range(len(UNPENALISED) + 1)
    free = set()
    for text in {UNPENALISED[i:j] for i in ends for j in ends if i < j}:
        try:
            tokens = tokenizer.encode(text)
        except TokenizerError:  # the vocabulary does not cover this text
            continue
        if len(tokens) == 1 and tokenizer.decode(tokens) == text:
            free.add(tokens[0])
    return frozenset(free)


def prompt_tokens(prompt: str | bytes | Iterable[int], tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Return a prompt, which is text, bytes or token ids, as tokens; checked as :func:`start_sequence` says."""
    if isinstance(prompt, str):
        tokens: Iterable[int] = tokenizer.encode(prompt)
    elif isinstance(prompt, (bytes, bytearray, memoryview)):
        tokens = tokenizer.encode_bytes(bytes(prompt))
    elif isinstance(prompt, Iterable):
        tokens = prompt
    else:
        raise GenerationError(f"prompt: expected str, bytes or token ids, got {type(prompt).__name__}")
    return check_tokens(tokens, vocab_size)


def first_tokens(tokenizer: Tokenizer, has_state: bool = False) -> list[int]:
    """Return what an empty prompt begins with: the end-of-text token; GenerationError if nothing is known to begin."""
    if has_state:
        raise GenerationError(
            "prompt: expected at least one token, got none, and a state alone does not say what comes next; "
            "pass the logits that came with it"
        )
    if tokenizer.end_of_text is None:
        raise GenerationError(
            f"prompt: expected at least one token, got none, and the {tokenizer.kind} tokenizer "
            "has no end-of-text token to start with"
        )
    return [tokenizer.end_of_text]
