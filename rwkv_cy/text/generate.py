"""Generation: drives one sequence with one model, from a prompt to pieces of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as AbstractSequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.records import dataclass, fields, replace
from rwkv_cy.text.grammars import Grammar
from rwkv_cy.text.sampling import LogitsProcessor, SamplingKeywords, SamplingOptions
from rwkv_cy.text.sequence import Sequence
from rwkv_cy.text.start import resolve_tokenizer, start_sequence
from rwkv_cy.text.tokenizers import Tokenizer
from rwkv_cy.text.tokens import check_argument, check_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Generation", "TextModel", "generate"]

S = TypeVar("S")

#: Tokens of a prompt that the model reads at once: more would not be faster, and an interrupt would lose more.
_PART_TOKENS = 512


class TextModel(Protocol[S]):
    """The part of a model's interface that generation uses; `S` is the type of its state."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer, if it has one."""
        ...

    def forward(
        self, tokens: AbstractSequence[int], state: S | None = None, *, out: S | None = None
    ) -> tuple[npt.NDArray[np.float32], S]:
        """Read `tokens`; return the logits after the last, float32 [vocab_size], and the state after it.

        `state` is not modified. The state after it is `out`, overwritten, or a new one.
        """
        ...


@dataclass(frozen=True)
class _Position(Generic[S]):
    """Where the model is in the text; replaced as a whole, so that an interrupt leaves one or the next."""

    #: Tokens that it has read, those of the prompt included.
    count: int
    state: S | None
    logits: npt.NDArray[np.float32] | None
    #: Whether nobody else has the state, so that it may be overwritten once it is out of date.
    owned: bool = False
    #: Such a state, out of date.
    spare: S | None = None


class Generation(Iterator[str], Generic[S]):
    """Text that is being generated. Iterating over it yields non-empty pieces of text.

    An interrupt (Ctrl-C), or an exception of the model or of a logits processor, ends an iteration but loses nothing:
    `tokens`, `text` and `state` are those after the last complete token, and iterating again goes on from there.

    Parameters
    ----------
    model : TextModel
    sequence : Sequence
        The text in progress; with an empty prompt, `state` and `logits` are required.
    state : optional
        State before the prompt; not modified.
    logits : float32 [vocab_size], optional
        Logits after `state`; only for an empty prompt.

    Attributes
    ----------
    sequence : Sequence
        The text in progress.
    """

    def __init__(
        self,
        model: TextModel[S],
        sequence: Sequence,
        state: S | None = None,
        logits: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.sequence = sequence
        self._model = model
        self._position = _Position(0, state, logits)

    def __iter__(self) -> Generation[S]:
        return self

    def __next__(self) -> str:
        while self.finish_reason is None:
            self.sequence.accept(self._read())
            piece = self.sequence.take_text()
            if piece:
                return piece
        raise StopIteration

    def __repr__(self) -> str:
        return f"Generation({self.sequence!r})"

    @property
    def prompt(self) -> list[int]:
        """The tokens that the model reads first."""
        return self.sequence.prompt

    @property
    def tokens(self) -> list[int]:
        """The tokens generated so far, including those of a stop string; a stop token is not included."""
        return self.sequence.tokens

    @property
    def finish_reason(self) -> str | None:
        """As of :class:`Sequence`: ``"length"``, ``"stop_token"``... once the text is complete, None before."""
        return self.sequence.finish_reason

    @property
    def text(self) -> str:
        """All text generated so far, including pieces that were not iterated over."""
        return self.sequence.text

    @property
    def state(self) -> S | None:
        """The state after the prompt and all `tokens`; generating further does not change it."""
        self._read()
        self._position = replace(self._position, owned=False)
        return self._position.state

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """The logits after the prompt and all `tokens`, float32 [vocab_size]."""
        return self._read()

    def prefill(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Let the model read the prompt; without this call, it does so when the first piece is requested.

        Parameters
        ----------
        progress : callable, optional
            Called with the tokens of the prompt that are read, and all of them.
        """
        self._read(progress)

    def _read(self, progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Let the model read what is pending, in parts; return the logits."""
        count = len(self.prompt) + len(self.tokens)
        while (logits := self._position.logits) is None or self._position.count < count:
            before = self._position
            # Not all pending tokens, if an interrupt came before they were marked as read.
            unread = self.sequence.pending[before.count - count :]
            parts = -(-len(unread) // _PART_TOKENS)
            part = unread[: -(-len(unread) // parts)]  # parts are equally long: a short last one would be slower
            logits, state = self._model.forward(part, before.state, out=before.spare)
            spare = before.state if before.owned else None
            self._position = _Position(before.count + len(part), state, logits, owned=True, spare=spare)
            if progress is not None:
                progress(self._position.count, count)
        self.sequence.mark_read()
        return logits


def generate(
    model: TextModel[S],
    prompt: str | bytes | Iterable[int],
    *,
    state: S | None = None,
    logits: npt.NDArray[np.float32] | None = None,
    max_tokens: int | None = 256,
    options: SamplingOptions | None = None,
    logits_processors: Iterable[LogitsProcessor] = (),
    grammar: Grammar | None = None,
    seed: np.random.Generator | int | None = None,
    stop: str | Iterable[str] = (),
    stop_tokens: Iterable[int] | None = None,
    tokenizer: Tokenizer | None = None,
    **sampling: Unpack[SamplingKeywords],
) -> Generation[S]:
    """Continue a prompt.

    All arguments are checked immediately; the model runs when the first piece is requested. It reads the prompt in
    parts of up to 512 tokens. Incomplete characters, and text that may become a stop string, are held back until they
    are decided.

    Parameters
    ----------
    model : TextModel
        For example a LanguageModel.
    prompt : str, bytes or iterable of int
        Text, bytes or token ids. If it is empty: with a tokenizer that has an end-of-text token and without `state`,
        that token is read, as at the start of a text in training; with `state` and `logits`, the text continues from
        there; otherwise it is an error.
    state : optional
        State to continue from; not modified. None starts from the initial state.
    logits : float32 [vocab_size], optional
        The logits that came with `state`; only for an empty prompt.
    max_tokens : int or None
        Upper limit of generated tokens; None for no limit.
    options : SamplingOptions, optional
        How tokens are chosen.
    logits_processors : iterable of LogitsProcessor
        Called in order before each token is chosen, with the tokens generated so far and the logits; each changes
        the logits in place or returns others. -inf forbids a token.
    grammar : Grammar, optional
        Only texts that it allows are generated; needs the extra ``grammar``.
    seed : int or numpy.random.Generator, optional
        The same seed gives the same text. None gives a different text each time.
    stop : str or iterable of str
        The text ends before the first complete one of these.
    stop_tokens : iterable of int, optional
        The text ends before the first of these. None stands for the tokenizer's end-of-text token, if it has one.
    tokenizer : Tokenizer, optional
        Replaces the model's.
    **sampling
        Fields of SamplingOptions; they take precedence over `options`. With ``order="rwkv"`` and
        `penalty_free_tokens` None, the tokens that the ``rwkv`` package does not count are free of penalties.

    Returns
    -------
    Generation
        An iterator over pieces of text, with `tokens`, `text`, `state` and `finish_reason`.

    Raises
    ------
    TypeError
        If an option is unknown.
    ConfigError
        If `model` is not a model.
    GenerationError
        If an option is out of range, a tokenizer is missing, or the prompt is empty and there are no logits to continue
        from. While iterating: if logits are NaN or Inf, or every token is forbidden.
    TokenizerError
        If the prompt cannot be encoded.
    TokenError
        If a token id is outside the vocabulary.
    """
    check_model("generate", model, prompt)
    _check_names(sampling)
    if grammar is not None:
        check_argument("grammar", grammar, "a Grammar", attribute="constraint", advice='as Grammar("regex", "[0-9]+")')
        logits_processors = [*logits_processors, grammar.constraint(resolve_tokenizer(model, tokenizer))]
    sequence = start_sequence(
        model,
        prompt,
        has_state=state is not None,
        has_logits=logits is not None,
        max_tokens=max_tokens,
        options=replace(options or SamplingOptions(), **sampling),
        logits_processors=logits_processors,
        seed=seed,
        stop=stop,
        stop_tokens=stop_tokens,
        tokenizer=tokenizer,
    )
    return Generation(model, sequence, state, logits)


def _check_names(sampling: Iterable[str]) -> None:
    """Raise TypeError if a keyword is neither an argument of generate nor a field of SamplingOptions."""
    options = [field.name for field in fields(SamplingOptions)]
    for name in sampling:
        if name not in options:
            from difflib import get_close_matches
            from inspect import signature

            near = get_close_matches(name, [*options, *list(signature(generate).parameters)[1:-1]], 1, 0.7)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(options)}"
            raise TypeError(f"generate() got an unexpected option {name!r}{hint}")
