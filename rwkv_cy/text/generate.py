"""Generation: a prompt in, pieces of text out, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError, TokenizerError
from rwkv_cy.text.options import SamplingKeywords, SamplingOptions, check_natural
from rwkv_cy.text.sampling import Sampler
from rwkv_cy.text.stopping import StopStrings
from rwkv_cy.text.tokenizers import Tokenizer
from rwkv_cy.text.tokens import check_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Generation", "TextModel", "generate", "unpenalised_tokens"]

S = TypeVar("S")

#: The ``rwkv`` package does not count a token whose text is a part of this.
UNPENALISED = " \t0123456789"


class TextModel(Protocol[S]):
    """What generation needs of a model; `S` is its state."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that came with the model."""
        ...

    def forward(
        self, tokens: Sequence[int], state: S | None = None, *, in_place: bool = False
    ) -> tuple[npt.NDArray[np.float32], S]:
        """Read `tokens`; return the logits of the last, float32 [vocab_size], and the state after it.

        `state` is left as it is unless `in_place`.
        """
        ...


class Generation(Iterator[str], Generic[S]):
    """Text that is being generated: iterate over it for the pieces; none of them is empty.

    Attributes
    ----------
    prompt : list of int
        The tokens that the model reads first.
    tokens : list of int
        The tokens generated so far, those of a stop string included; a stop token is not.
    finish_reason : str or None
        ``"length"``, ``"stop_token"`` or ``"stop_string"`` at the end; None before.
    """

    def __init__(
        self,
        model: TextModel[S],
        tokenizer: Tokenizer,
        prompt: list[int],
        state: S | None,
        logits: npt.NDArray[np.float32] | None,
        sampler: Sampler,
        stop: StopStrings,
        stop_tokens: frozenset[int],
        max_tokens: int | None,
    ) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._model = model
        self._state = state
        self._logits = logits
        self._sampler = sampler
        self._stream = tokenizer.stream()
        self._stop = stop
        self._stop_tokens = stop_tokens
        self._max_tokens = max_tokens
        self._unread = prompt
        # A state that somebody else holds must not change under them.
        self._state_is_ours = False

    def __iter__(self) -> Generation[S]:
        return self

    def __next__(self) -> str:
        while self.finish_reason is None:
            piece = self._step()
            if piece:
                return piece
        raise StopIteration

    @property
    def state(self) -> S | None:
        """The state after the prompt and all `tokens`; it does not change when the generation goes on."""
        self._read()
        self._state_is_ours = False
        return self._state

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The logits that follow the prompt and all `tokens`, float32 [vocab_size]."""
        return self._read()

    def _read(self) -> npt.NDArray[np.float32]:
        """Let the model read what it has not yet; return the logits."""
        if self._unread or self._logits is None:
            self._logits, self._state = self._model.forward(self._unread, self._state, in_place=self._state_is_ours)
            self._state_is_ours = True
            self._unread = []
        return self._logits

    def _step(self) -> str:
        if self._max_tokens is not None and len(self.tokens) >= self._max_tokens:
            return self._finish("length")
        token = self._sampler.sample(self._read()[: self._sampler.vocab_size])
        if token in self._stop_tokens:
            return self._finish("stop_token")
        self.tokens.append(token)
        self._unread = [token]
        piece = self._stop.push(self._stream.push(token))
        if self._stop.stopped:
            self.finish_reason = "stop_string"
        return piece

    def _finish(self, reason: str) -> str:
        self.finish_reason = reason
        return self._stop.push(self._stream.finish()) + self._stop.finish()


def generate(
    model: TextModel[S],
    prompt: str | bytes | Iterable[int],
    *,
    state: S | None = None,
    logits: npt.NDArray[np.float32] | None = None,
    max_tokens: int | None = 256,
    options: SamplingOptions | None = None,
    seed: np.random.Generator | int | None = None,
    stop: str | Iterable[str] = (),
    stop_tokens: Iterable[int] | None = None,
    tokenizer: Tokenizer | None = None,
    **sampling: Unpack[SamplingKeywords],
) -> Generation[S]:
    """Continue a prompt.

    Everything is checked here; the model begins to read when the first piece is asked for. It reads the whole
    prompt in one call. Half characters, and text that could become a stop string, are held back until they are
    certain.

    Parameters
    ----------
    model : TextModel
        For example a LanguageModel.
    prompt : str, bytes or iterable of int
        Text, bytes or token ids. If it is empty: with a tokenizer that has an end-of-text token and no `state`,
        that token is read, as at the start of a text in training; with `state` and `logits`, the text goes on
        from there; otherwise it is an error.
    state : optional
        What the model has read before; it is not changed. None is the beginning.
    logits : float32 [vocab_size], optional
        Those that came with `state`; only for an empty prompt.
    max_tokens : int or None
        At most so many tokens; None for no end.
    options : SamplingOptions, optional
        How tokens are chosen.
    seed : int or numpy.random.Generator, optional
        The same seed gives the same text. None is a different text each time.
    stop : str or iterable of str
        The text ends before the first of these to be complete.
    stop_tokens : iterable of int, optional
        The text ends before the first of these. None is the tokenizer's end-of-text token, if it has one.
    tokenizer : Tokenizer, optional
        In place of the model's.
    **sampling
        Fields of SamplingOptions; they go before those of `options`. Where ``order="rwkv"`` and
        `penalty_free_tokens` is None, the tokens that the ``rwkv`` package does not count are free.

    Returns
    -------
    Generation
        An iterator over pieces of text, with `tokens`, `state` and `finish_reason`.

    Raises
    ------
    GenerationError
        If an option is out of its range, there is no tokenizer, or the prompt is empty and nothing can follow it.
        While iterating: if the logits are not numbers.
    TokenizerError
        If the prompt cannot be encoded.
    TokenError
        If a token id lies outside the vocabulary.
    """
    tokenizer = tokenizer if tokenizer is not None else model.tokenizer
    if tokenizer is None:
        raise GenerationError(
            'tokenizer: expected one, got a model without; give tokenizer=rwkv_cy.text.find_tokenizer("...")'
        )
    if not isinstance(tokenizer, Tokenizer):
        raise GenerationError(
            f"tokenizer: expected a Tokenizer, got {type(tokenizer).__name__}; rwkv_cy.text.find_tokenizer makes one"
        )
    if max_tokens is not None:
        check_natural("max_tokens", max_tokens)
    options = replace(options or SamplingOptions(), **sampling)
    if options.penalty_free_tokens is None and options.order == "rwkv":
        options = replace(options, penalty_free_tokens=unpenalised_tokens(tokenizer))
    if stop_tokens is None:
        stop_tokens = () if tokenizer.end_of_text is None else (tokenizer.end_of_text,)
    # ids that the model has and the tokenizer has not stand for no text, so they are never chosen
    sampler = Sampler(options, min(model.vocab_size, tokenizer.vocab_size), seed)
    tokens = _prompt_tokens(prompt, tokenizer, model.vocab_size)
    if not tokens and logits is None:
        tokens = _first_tokens(tokenizer, state is not None)
    elif logits is not None and (tokens or state is None):
        raise GenerationError("logits: expected them with a state and an empty prompt only; leave them out")
    return Generation(
        model,
        tokenizer,
        tokens,
        state,
        logits,
        sampler,
        StopStrings(stop),
        frozenset(check_tokens(stop_tokens, max(model.vocab_size, tokenizer.vocab_size), "stop token")),
        max_tokens,
    )


def unpenalised_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens that the ``rwkv`` package leaves out of its counts: spaces, tabs, digits and runs of them."""
    ends = range(len(UNPENALISED) + 1)
    found = set()
    for text in {UNPENALISED[i:j] for i in ends for j in ends if i < j}:
        try:
            tokens = tokenizer.encode(text)
        except TokenizerError:  # a vocabulary of something else than text
            continue
        if len(tokens) == 1 and tokenizer.decode(tokens) == text:
            found.add(tokens[0])
    return frozenset(found)


def _prompt_tokens(prompt: str | bytes | Iterable[int], tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    if isinstance(prompt, str):
        tokens: Iterable[int] = tokenizer.encode(prompt)
    elif isinstance(prompt, (bytes, bytearray, memoryview)):
        tokens = tokenizer.encode_bytes(bytes(prompt))
    elif isinstance(prompt, Iterable):
        tokens = prompt
    else:
        raise GenerationError(f"prompt: expected str, bytes or token ids, got {type(prompt).__name__}")
    return check_tokens(tokens, vocab_size)


def _first_tokens(tokenizer: Tokenizer, has_state: bool) -> list[int]:
    if has_state:
        raise GenerationError(
            "prompt: expected at least one token, got none, and a state alone does not say what comes next; "
            "give the logits that came with it"
        )
    if tokenizer.end_of_text is None:
        raise GenerationError(
            f"prompt: expected at least one token, got none, and the {tokenizer.kind} tokenizer has none to start with"
        )
    return [tokenizer.end_of_text]
