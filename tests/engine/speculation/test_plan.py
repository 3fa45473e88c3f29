"""When drafts are made: what they copy, what they cost, and that useless ones stop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rwkv_cy.engine.speculation.budget import Budget
from rwkv_cy.engine.speculation.costs import Costs
from rwkv_cy.engine.speculation.plan import Drafts, Speculation, _Estimate
from rwkv_cy.engine.speculation.sources import Lookup


class Script:
    """A source that proposes the same tokens always."""

    def __init__(self, draft: Sequence[int]) -> None:
        self.draft, self.calls, self.pushed = list(draft), 0, []

    def push(self, token: int) -> None:
        self.pushed.append(token)

    def propose(self, most: int) -> Sequence[int]:
        self.calls += 1
        return self.draft[:most]


def measured(seconds: dict[int, float]) -> Costs:
    costs = Costs()
    for tokens, each in seconds.items():
        costs.observe(tokens, each)
    return costs


def after(lookup: Lookup, text: bytes, most: int = 5) -> bytes:
    for token in text:
        lookup.push(token)
    return bytes(lookup.propose(most))


def test_lookup_in_the_text() -> None:
    lookup = Lookup(b"the cat sat on the mat. ", grows=True)
    assert after(lookup, b"A c") == b""  # three tokens are needed
    assert after(lookup, b"at") == b" sat "
    assert after(lookup, b" sat", 3) == b" on"
    assert after(lookup, b"!") == b""
    assert after(lookup, b" cat sat!", 4) == b" cat"  # the latest place, and the text itself goes on repeating
    assert after(lookup, b" cat s", 6) == b"at! ca"


def test_lookup_in_a_prediction() -> None:
    lookup = Lookup(b"one two three four", grows=False)
    assert after(lookup, b"") == b"one t"
    assert after(lookup, b"one ") == b"two t"
    assert after(lookup, b"2 t", 20) == b""
    assert after(lookup, b"hr", 20) == b"ee four"
    assert after(lookup, b"ee four") == b""
    assert after(lookup, b"three") == b" four"


def test_lookup_of_long_texts_is_bounded() -> None:
    rng = np.random.default_rng(0)
    lookup = Lookup(rng.integers(0, 1000, 100_000).tolist(), grows=True)
    assert len(lookup._reference) == 1 << 15


def test_a_long_text_is_looked_up_step_by_step() -> None:
    lookup = Lookup([*range(1000, 1100), *range(10_000), *range(2000, 2008)], grows=True)
    assert len(lookup._places) == 0  # the first token does not wait for an index
    sizes = []
    for token in range(2008, 2020):
        lookup.push(token)
        sizes.append(len(lookup._places))
    assert max(b - a for a, b in itertools.pairwise(sizes)) < 200
    assert not lookup.propose(3)
    for token in range(50_000, 50_200):
        lookup.push(token)
    for token in range(1010, 1016):
        lookup.push(token)
    assert lookup.propose(3) == [1016, 1017, 1018]


def test_costs() -> None:
    costs = Costs()
    assert costs.ratio(1, 3) == pytest.approx(1.6)
    assert costs.seconds(1) == np.inf
    costs = measured({1: 2.0, 5: 4.0})
    assert costs.ratio(1, 5) == 2.0
    assert costs.ratio(1, 3) == 1.5
    assert costs.seconds(9) == pytest.approx(4.0 * 3.4 / 2.2)
    assert measured({1: 2.0, 2: 1.0}).ratio(1, 2) == 1.0
    costs.observe(1, 4.0)
    assert costs.seconds(1) == pytest.approx(2.3)


def drafts_of(source: Script, costs: Costs, accepted: float = 0.7, *, slow: bool = False) -> Drafts:
    return Drafts([_Estimate(source, accepted, slow=slow)], costs, Budget())


@pytest.mark.parametrize(("cost", "length"), [(0.0, 7), (0.2, 3), (0.5, 1), (0.8, 0)])
def test_costly_drafts_are_shorter(cost: float, length: int) -> None:
    costs = measured({tokens: 1 + cost * (tokens - 1) for tokens in range(1, 20)})
    assert len(drafts_of(Script(range(7)), costs).draft(7, 1, 1)) == length


def test_a_draft_counts_less_beside_many_texts() -> None:
    costs = measured({tokens: 1 + 0.2 * (tokens - 1) for tokens in range(1, 40)})
    assert len(drafts_of(Script(range(7)), costs, 0.8).draft(7, 1, 1)) == 4
    assert len(drafts_of(Script(range(7)), costs, 1.0).draft(7, 8, 8)) == 7
    assert len(drafts_of(Script(range(7)), costs, 0.8).draft(7, 16, 16)) == 0


def test_wrong_drafts_stop_and_right_ones_come_back() -> None:
    costs = measured({tokens: 1 + 0.3 * (tokens - 1) for tokens in range(1, 20)})
    drafts, used = drafts_of(Script([1, 1, 1]), costs), []
    for token in [2] * 300 + [1] * 40:
        used.append(len(drafts.draft(3, 1, 1)))
        drafts.observe([token])
    assert sum(used[:300]) <= 15  # verified in vain before the estimate fell
    assert used[20:300] == [0] * 280
    assert used[-1] == 3  # nothing was verified meanwhile: what the source proposed was compared with the text


def test_a_slow_source_rests_longer_each_time() -> None:
    source = Script([1])
    drafts = drafts_of(source, measured({1: 1.0, 2: 1.9, 3: 2.8, 4: 3.7}), slow=True)
    for _ in range(3000):
        drafts.draft(3, 1, 1)
        drafts.observe([2])
    assert source.calls <= 10
    assert len(source.pushed) == 3000


def test_the_surest_source_is_used() -> None:
    costs = measured(dict.fromkeys(range(1, 20), 1.0))
    first, second = Script([]), Script([5, 6])
    assert Drafts([_Estimate(first, 0.9), _Estimate(second, 0.5)], costs, Budget()).draft(7, 1, 1) == [5, 6]
    first.draft = [7]
    assert Drafts([_Estimate(first, 0.9), _Estimate(second, 0.5)], costs, Budget()).draft(7, 1, 1) == [7]


def halves(rng: np.random.Generator) -> list[int]:
    """Return a text whose every other word was there before."""
    words = [rng.integers(0, 50, 8).tolist() for _ in range(6)]
    return [token for _ in range(90) for token in (*words[int(rng.integers(6))], *rng.integers(50, 5000, 8).tolist())]


TEXTS: dict[str, Callable[[np.random.Generator], list[int]]] = {
    "random": lambda rng: rng.integers(0, 5000, 1500).tolist(),
    "few tokens": lambda rng: rng.integers(0, 4, 1500).tolist(),
    "repeats itself, then does not": lambda rng: [*list(range(40)) * 20, *rng.integers(0, 5, 1500).tolist()],
    "every other word": halves,
    "short": lambda rng: rng.integers(0, 3, 100).tolist(),
}


@pytest.mark.parametrize("further", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", TEXTS)
def test_by_its_costs_a_text_never_takes_more_than_3_percent_longer(name: str, further: float) -> None:
    """Passes as many as tokens without drafts; with them, the costs of those that ran."""
    rng = np.random.default_rng(1)
    costs = measured({tokens: 1 + further * (tokens - 1) for tokens in range(1, 20)})
    speculation = Speculation(costs=costs)
    for text in (TEXTS[name](rng), TEXTS[name](rng)):
        wrong = [token if rng.random() < 0.3 else 7777 for token in text]
        drafts = speculation.drafts(text[:20], wrong, ())
        place, seconds = 20, 0.0
        while place < len(text):
            draft = drafts.draft(7, 1, 1)
            seconds += costs.seconds(1 + len(draft))
            right = next((i for i, token in enumerate(draft) if text[place + i : place + i + 1] != [token]), len(draft))
            accepted = text[place : place + right + 1]
            drafts.observe(accepted)
            place += len(accepted)
        assert seconds <= 1.03 * (len(text) - 20) + (0.5 if name == "short" else 0)
