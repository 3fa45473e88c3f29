"""Several continuations of one prompt, from copies of its state: beam search, and the best of n samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError
from rwkv_cy.records import dataclass
from rwkv_cy.text.sampling.options import check_natural
from rwkv_cy.text.score import log_softmax
from rwkv_cy.text.start import prompt_tokens, resolve_tokenizer, start_sequence
from rwkv_cy.text.stopping import StopStrings
from rwkv_cy.text.tokens import check_tokens

if TYPE_CHECKING:
    from rwkv_cy.text.tokenizers import Tokenizer

__all__ = ["BatchModel", "Candidate", "beam_search", "best_of"]

S = TypeVar("S")

#: Continuations that run side by side at most: each has a state.
_MOST = 256


class BatchModel(Protocol[S]):
    """The part of a model's interface that searching uses; `S` is the type of its state."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer, if it has one."""
        ...

    def forward(self, tokens: Sequence[int], state: S | None = None) -> tuple[npt.NDArray[Any], S]:
        """Read `tokens`; return the logits after the last, and the state after it."""
        ...

    def forward_batch(
        self, sequences: Sequence[int], states: Sequence[S] | None = None
    ) -> tuple[npt.NDArray[Any], list[S]]:
        """Read a token of each of several texts; return the logits after each, and new states."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A continuation.

    Attributes
    ----------
    text : str
        Without a stop string.
    tokens : list of int
        Without a stop token.
    logprob : float
        Natural logarithm of the probability that the model gives to all tokens and, if one ended the text, the stop
        token; before temperature, penalties and constraints.
    score : float
        What candidates are ordered by.
    finish_reason : str
        ``"length"``, ``"stop_token"`` or ``"stop_string"``.
    """

    text: str
    tokens: list[int]
    logprob: float
    score: float
    finish_reason: str


@dataclass(frozen=True)
class _Beam:
    """A text in progress: its tokens, their log-probability, and which state it goes on from."""

    tokens: tuple[int, ...]
    logprob: float
    parent: int


def beam_search(
    model: BatchModel[S],
    prompt: str | bytes | Iterable[int],
    *,
    beams: int = 4,
    max_tokens: int = 256,
    length_penalty: float = 1.0,
    stop: str | Iterable[str] = (),
    stop_tokens: Iterable[int] | None = None,
    state: S | None = None,
) -> list[Candidate]:
    """Search for the likeliest continuations: in each step, go on with the likeliest `beams` beginnings.

    Parameters
    ----------
    model : BatchModel
        For example a LanguageModel.
    prompt : str, bytes or iterable of int
        At least one token.
    beams : int, default 4
        Texts that are kept; 1 is greedy.
    max_tokens : int, default 256
        Upper limit of tokens, at least 1.
    length_penalty : float, default 1
        Candidates are ordered by log-probability / tokens ** length_penalty: 0 favours short ones, 1 compares averages.
    stop, stop_tokens
        As for :func:`rwkv_cy.text.generate`.
    state : optional
        State to start from; not modified.

    Returns
    -------
    list of Candidate
        At most `beams`, the best first.

    Raises
    ------
    GenerationError
        If a number is out of range, a tokenizer is missing, or the prompt is empty.
    TokenError, TokenizerError, NumericalError
        As for :func:`rwkv_cy.text.generate`.
    """
    _check_count("beams", beams)
    check_natural("max_tokens", max_tokens)
    if max_tokens < 1 or not 0 <= length_penalty < np.inf:
        raise GenerationError(
            f"max_tokens, length_penalty: expected at least 1 and a number from 0, got {max_tokens}, {length_penalty!r}"
        )
    tokenizer = resolve_tokenizer(model, None)
    tokens = prompt_tokens(prompt, tokenizer, model.vocab_size)
    if not tokens:
        raise GenerationError("prompt: expected at least one token, got none")
    if stop_tokens is None:
        stop_tokens = () if tokenizer.end_of_text is None else (tokenizer.end_of_text,)
    search = _Search(
        tokenizer,
        beams,
        length_penalty,
        stop if isinstance(stop, str) else tuple(stop),
        frozenset(check_tokens(stop_tokens, max(model.vocab_size, tokenizer.vocab_size), "stop_tokens")),
        max_tokens,
    )
    first, after = model.forward(tokens, state)
    rows, states = first[np.newaxis], [after]
    live = [_Beam((), 0.0, 0)]
    vocab = min(model.vocab_size, tokenizer.vocab_size)
    while live := search.extend(live, rows[:, :vocab]):
        rows, states = model.forward_batch([beam.tokens[-1] for beam in live], [states[beam.parent] for beam in live])
    return search.best()


class _Search:
    """The complete texts of a search, and the rules by which the others go on."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        beams: int,
        length_penalty: float,
        stop: str | Sequence[str],
        stop_tokens: frozenset[int],
        max_tokens: int,
    ) -> None:
        StopStrings(stop)  # checks them
        self._tokenizer = tokenizer
        self._beams = beams
        self._length_penalty = length_penalty
        self._stop = stop
        self._stop_tokens = stop_tokens
        self._max_tokens = max_tokens
        self._complete: list[Candidate] = []

    def extend(self, live: Sequence[_Beam], rows: npt.NDArray[Any]) -> list[_Beam]:
        """Return the likeliest beginnings that are one token longer, or none if no better text can come of them."""
        totals = np.array([beam.logprob + log_softmax(row) for beam, row in zip(live, rows, strict=True)])
        flat = totals.reshape(-1)
        # A text has so many continuations that end it that twice as many as beams leave enough that go on.
        count = min(flat.size, (1 + len(self._stop_tokens)) * self._beams)
        best = np.argpartition(-flat, count - 1)[:count]
        longer: list[_Beam] = []
        for place in best[np.lexsort((best, -flat[best]))]:
            parent, token = divmod(int(place), totals.shape[1])
            beam = _Beam((*live[parent].tokens, token), float(flat[place]), parent)
            if not self._ends(beam) and len(longer) < self._beams:
                longer.append(beam)
        self._complete = self.best()
        return longer if longer and self._can_improve(longer) else []

    def best(self) -> list[Candidate]:
        """Return the best complete texts, the best first."""
        return sorted(self._complete, key=lambda each: -each.score)[: self._beams]

    def _can_improve(self, live: Sequence[_Beam]) -> bool:
        if len(self._complete) < self._beams:
            return True
        most = max(beam.logprob for beam in live) / self._max_tokens**self._length_penalty
        return bool(most > self._complete[-1].score)

    def _ends(self, beam: _Beam) -> bool:
        """Take note of a text that is complete."""
        ended_by_token = beam.tokens[-1] in self._stop_tokens
        tokens = list(beam.tokens[:-1] if ended_by_token else beam.tokens)
        stops = StopStrings(self._stop)
        text = stops.push(self._tokenizer.decode(tokens))
        if ended_by_token:
            reason = "stop_token"
        elif stops.stopped:
            reason = "stop_string"
        elif len(tokens) >= self._max_tokens:
            reason = "length"
        else:
            return False
        score = beam.logprob / len(beam.tokens) ** self._length_penalty
        self._complete.append(Candidate(text + stops.finish(), tokens, beam.logprob, score, reason))
        return True


def best_of(
    model: BatchModel[S],
    prompt: str | bytes | Iterable[int],
    count: int,
    *,
    state: S | None = None,
    max_tokens: int | None = 256,
    seed: int | None = None,
    **arguments: Any,
) -> list[Candidate]:
    """Sample several continuations, and order them by the average log-probability of their tokens.

    Parameters
    ----------
    model : BatchModel
        For example a LanguageModel.
    prompt : str, bytes or iterable of int
        At least one token.
    count : int
        How many to sample.
    state, max_tokens
        As for :func:`rwkv_cy.text.generate`.
    seed : int, optional
        The same seed gives the same candidates; that with number i is what generate gives with
        ``numpy.random.default_rng([seed, i])``.
    **arguments
        `options`, `stop`, `stop_tokens` and `logits_processors`, as for generate. Processors are shared.

    Returns
    -------
    list of Candidate
        The best first.

    Raises
    ------
    GenerationError, TokenError, TokenizerError, NumericalError
        As for :func:`rwkv_cy.text.generate`.
    """
    _check_count("count", count)
    if seed is not None:
        check_natural("seed", seed)
    tokens = prompt_tokens(prompt, resolve_tokenizer(model, None), model.vocab_size)
    if not tokens:
        raise GenerationError("prompt: expected at least one token, got none")
    texts = [
        start_sequence(
            model,
            (),
            has_state=True,
            has_logits=True,
            max_tokens=max_tokens,
            seed=None if seed is None else np.random.default_rng([seed, i]),
            **arguments,
        )
        for i in range(count)
    ]
    logprobs = np.zeros(count)
    first, after = model.forward(tokens, state)
    rows, states = np.repeat(first[np.newaxis], count, axis=0), [after] * count
    live = [i for i, text in enumerate(texts) if text.finish_reason is None]
    while live:
        for i, row in zip(live, rows, strict=True):
            texts[i].mark_read()
            logprobs[i] += log_softmax(row)[texts[i].accept(row)]
        kept = [place for place, i in enumerate(live) if texts[i].finish_reason is None]
        live = [live[place] for place in kept]
        if live:
            rows, states = model.forward_batch([texts[i].tokens[-1] for i in live], [states[place] for place in kept])
    lengths = np.array([max(1, len(text.tokens) + (text.finish_reason == "stop_token")) for text in texts])
    scores = logprobs / lengths
    order = np.argsort(-scores, kind="stable")
    return [
        Candidate(texts[i].text, texts[i].tokens, float(logprobs[i]), float(scores[i]), texts[i].finish_reason or "")
        for i in order
    ]


def _check_count(name: str, value: int) -> None:
    check_natural(name, value, _MOST)
    if value < 1:
        raise GenerationError(f"{name}: expected at least 1, got {value}")
