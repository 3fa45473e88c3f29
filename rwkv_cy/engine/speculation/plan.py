"""When to speculate, and how far: estimates of acceptance against measured costs."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from rwkv_cy.engine.speculation.budget import Budget
from rwkv_cy.engine.speculation.costs import Costs
from rwkv_cy.engine.speculation.sources import Forced, ForcingConstraint, Lookup, SmallModel, Source
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import dataclass, field
from rwkv_cy.text.sampling import LogitsProcessor
from rwkv_cy.text.tokens import require_model

__all__ = ["Drafts", "Speculation"]

#: How many times its cost a draft must gain by the estimates: they are not exact, and nothing must become slower.
_LEAST_GAIN = 1.3
#: Weight of the latest token in the estimate of acceptance.
_LATEST = 0.1
#: A small model costs time even to try: after a draft that was not worth it, it rests for so many tokens, doubled each
#: time up to the limit.
_REST, _LONGEST_REST = 16, 1024
#: Tokens of a long prompt that are indexed in a second, to take a hundredth of the time; at most so many with a token.
_INDEXED_PER_SECOND, _MOST_INDEXED = 10_000, 64


@dataclass(eq=False)
class Speculation:
    """How an engine speculates.

    Attributes
    ----------
    most : int
        Longest draft, in tokens.
    lookup : bool
        Draft what followed the same tokens earlier in the text.
    model : LanguageModel or None
        A small model with the same vocabulary to draft with.
    max_bytes : int
        Limit of the memory for states of drafts; drafts are shorter where the states are large and the slots many.

    Raises
    ------
    ConfigError
        If a number is not positive, or `model` is not a model.
    """

    most: int = 7
    lookup: bool = True
    model: LanguageModel | None = None
    max_bytes: int = 1 << 30
    costs: Costs = field(default_factory=Costs, repr=False)
    budget: Budget = field(default_factory=Budget, repr=False)

    def __post_init__(self) -> None:
        for name in ("most", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name}: expected a positive integer, got {value!r}")
        if self.model is not None:
            require_model(self.model)

    def longest(self, slots: int, state_bytes: int) -> int:
        """Return the longest draft that the memory allows."""
        return max(0, min(self.most, self.max_bytes // (slots * state_bytes) - 1))

    def drafts(
        self, prompt: Sequence[int], prediction: Sequence[int], constraints: Sequence[LogitsProcessor]
    ) -> Drafts:
        """Return the sources for one text, the surest first."""
        sources = [_Estimate(Forced(each), 0.9) for each in constraints if isinstance(each, ForcingConstraint)]
        if prediction:
            sources.append(_Estimate(Lookup(prediction, grows=False, pace=self._pace), 0.7))
        if self.lookup:
            sources.append(_Estimate(Lookup(prompt, grows=True, pace=self._pace), 0.4))
        if self.model is not None:
            sources.append(_Estimate(SmallModel(self.model, prompt), 0.7, slow=True))
        return Drafts(sources, self.costs, self.budget)

    def _pace(self) -> int:
        """Return how many tokens may be indexed with each pass: about a hundredth of its time."""
        return int(max(1, min(_MOST_INDEXED, self.costs.seconds(1) * _INDEXED_PER_SECOND)))


@dataclass(eq=False)
class _Estimate:
    """A source, and how likely its next token is right."""

    source: Source
    accepted: float
    slow: bool = False
    rest: int = 0
    next_rest: int = _REST
    seconds: float = 0.0
    draft: Sequence[int] = ()


class Drafts:
    """The drafts of one text.

    Cheap sources propose before every token, whether it is used or not: whether they would have been right is then
    known without running anything.

    Parameters
    ----------
    sources : sequence of _Estimate
    costs : Costs
    budget : Budget
        Of all texts together.
    """

    def __init__(self, sources: Sequence[_Estimate], costs: Costs, budget: Budget) -> None:
        self._sources = sources
        self._costs = costs
        self._budget = budget
        self._draft: Sequence[int] = ()  # in the pass that runs
        self._cost = 0.0  # of it, in passes
        self._texts = 1

    def draft(self, most: int, tokens: int, texts: int) -> Sequence[int]:
        """Return a draft that is worth its time, or nothing.

        Parameters
        ----------
        most : int
            Its longest length.
        tokens : int
            Tokens of the pass without it.
        texts : int
            Texts in the pass that wait for a token each.
        """
        chosen: Sequence[int] = ()
        self._cost, self._texts = 0.0, texts
        for each in self._sources:
            each.draft = ()
            if chosen or most < 1:
                continue
            if each.slow:
                chosen = self._slow(each, most, tokens, texts)
                continue
            each.draft = each.source.propose(most)
            length = self._length(each, len(each.draft), tokens, texts)
            chosen = each.draft[:length]
        if chosen:
            self._cost += self._costs.ratio(tokens, tokens + len(chosen)) - 1
        self._draft = chosen
        return chosen

    def observe(self, tokens: Sequence[int]) -> None:
        """Take note of the tokens that the text went on with."""
        right = 0
        while right < min(len(self._draft), len(tokens)) and self._draft[right] == tokens[right]:
            right += 1
        self._budget.note(right / self._texts, self._cost, 1 / self._texts)
        self._draft, self._cost = (), 0.0
        for each in self._sources:
            for proposed, token in zip(each.draft, tokens, strict=False):
                each.accepted += _LATEST * ((proposed == token) - each.accepted)
                if proposed != token:
                    break
            for token in tokens:
                each.source.push(token)

    def _length(self, each: _Estimate, most: int, tokens: int, texts: int, seconds: float = 0.0) -> int:
        """Return the length of a draft that gains most, 0 if none gains enough."""
        best, length = 1.0, 0
        likely, expected = 1.0, 0.0  # that all tokens up to here are right, and how many are
        for count in range(1, most + 1):
            likely *= each.accepted
            expected += likely
            # Both relative to the pass without a draft.
            tokens_gained = 1 + expected / texts
            time = self._costs.ratio(tokens, tokens + count) + seconds * count
            if time - 1 > self._budget.left:
                break
            if tokens_gained / time > best and tokens_gained - 1 > _LEAST_GAIN * (time - 1):
                best, length = tokens_gained / time, count
            most_gained = (expected + likely * each.accepted / max(1e-9, 1 - each.accepted)) / texts
            if most_gained <= _LEAST_GAIN * (time - 1):  # more tokens cost more, and cannot gain enough
                break
        return length

    def _slow(self, each: _Estimate, most: int, tokens: int, texts: int) -> Sequence[int]:
        """Return a draft of a source that takes time itself, unless it rests."""
        if each.rest > 0:
            each.rest -= 1
            return ()
        length = self._length(each, most, tokens, texts, each.seconds)
        if length == 0:
            # Not worth it by the estimates: rest, then try again, since the text may have changed.
            each.rest, each.next_rest = each.next_rest, min(2 * each.next_rest, _LONGEST_REST)
            length = 1
            if each.seconds > self._budget.left:
                return ()
        else:
            each.next_rest = _REST
        start = perf_counter()
        each.draft = each.source.propose(length)
        self._cost += (perf_counter() - start) / self._costs.seconds(tokens)
        share = self._cost / max(1, len(each.draft))
        each.seconds += (share - each.seconds) * (_LATEST if each.seconds else 1.0)
        return each.draft
