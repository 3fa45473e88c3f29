"""Requests that share beginnings: the cache changes how much is computed, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.helpers import Outcome, outcomes, random_request, same_as_alone
from rwkv_cy.engine import Engine, Request, StateCache, Usage
from rwkv_cy.errors import GenerationError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


@pytest.fixture
def computed(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the number of tokens of each pass of kjv.pth."""
    run, counts = kjv.passes.run, []

    def counting(parts: Any, threads: int | None = None) -> Any:
        counts.append(sum(len(part.ids) for part in parts))
        return run(parts, threads)

    monkeypatch.setattr(kjv.passes, "run", counting)
    return counts


def one(engine: Engine, request: Request) -> Outcome:
    (outcome,) = outcomes(engine.run([request])).values()
    return outcome


def usage(outcome: Outcome) -> Usage:
    assert outcome.last is not None
    assert outcome.last.usage is not None
    return outcome.last.usage


@pytest.mark.parametrize("count", [30, pytest.param(60, marks=pytest.mark.slow)])
def test_requests_that_share_beginnings_give_what_each_gives_alone(
    model: LanguageModel, heldout: bytes, count: int
) -> None:
    rng = np.random.default_rng(2)
    size = model.encoder.numbers(None).nbytes
    engine = Engine(model, slots=5, prompt_tokens=48, cache=StateCache(12 * size))
    requests = []
    for _ in range(count):
        shared = heldout[: int(rng.integers(0, 400))]
        request = random_request(rng, heldout)
        prompt = shared + bytes(request.prompt)  # type: ignore[arg-type]
        places = rng.integers(1, len(prompt) + 1, 3)
        requests.append(
            replace(
                request,
                prompt=prompt,
                cache=bool(rng.random() < 0.9),
                cache_key=str(rng.choice(["", "", "b"])),
                breakpoints=[int(places[0])],
                message_ends=[int(place) for place in places[1:]],
            )
        )
    results = outcomes(engine.run(requests))
    for number, request in enumerate(requests, 1):
        same_as_alone(model, request, results[f"request-{number}"])
        if not request.cache:
            assert usage(results[f"request-{number}"]).cached_tokens == 0
    assert engine.cache is not None
    stats = engine.cache.stats
    assert stats.hits > count // 3
    assert sum(stats.evicted.values()) > 5
    assert stats.hit_tokens == sum(usage(outcome).cached_tokens for outcome in results.values())


def test_the_same_prompt_again_is_not_computed(kjv: LanguageModel, heldout: bytes, computed: list[int]) -> None:
    engine = Engine(kjv, cache=StateCache())
    request = Request(prompt=heldout[:300], max_tokens=3, seed=1, return_state=True)
    first = one(engine, request)
    assert (usage(first).cached_tokens, usage(first).cache_write_tokens) == (0, 300)
    assert computed == [300, 1, 1, 1]
    second = one(engine, request)
    assert (usage(second).cached_tokens, usage(second).cache_write_tokens) == (300, 0)
    assert computed[4:] == [1, 1, 1]
    assert first.compared() == second.compared()


def test_a_conversation_goes_on_from_the_last_answer(kjv: LanguageModel, heldout: bytes, computed: list[int]) -> None:
    engine = Engine(kjv, cache=StateCache())
    prompt = list(heldout[:200])
    first = one(engine, Request(prompt=prompt, options=GREEDY, max_tokens=10, stop_tokens=()))
    prompt += [*first.tokens, *heldout[200:260]]
    computed.clear()
    second = one(engine, Request(prompt=prompt, options=GREEDY, max_tokens=1))
    assert usage(second).cached_tokens == 209  # the last token of an answer is not read when the answer ends
    assert computed == [61]
    assert second.text == "".join(kjv.generate(prompt, temperature=0, max_tokens=1))


def test_where_two_prompts_part(kjv: LanguageModel, heldout: bytes, computed: list[int]) -> None:
    engine = Engine(kjv, cache=StateCache())
    cached = [
        usage(one(engine, Request(prompt=heldout[:150] + tail, max_tokens=1))).cached_tokens
        for tail in (b"abc" * 20, b"def" * 20, b"ghi" * 20)
    ]
    assert cached == [0, 0, 150]  # the second one finds out that they part here, and stores the state
    assert computed == [210, 150, 60, 60]


def test_places_that_a_request_names(kjv: LanguageModel, heldout: bytes, computed: list[int]) -> None:
    engine = Engine(kjv, cache=StateCache())
    one(engine, Request(prompt=heldout[:200], max_tokens=1, breakpoints=[7], message_ends=[100]))
    assert computed == [7, 93, 100]
    for length, cached in ((20, 7), (150, 100), (220, 200)):
        prompt = heldout[:length] + b"~" * 40
        assert usage(one(engine, Request(prompt=prompt, max_tokens=1))).cached_tokens == cached
    for name in ("breakpoints", "message_ends"):
        with pytest.raises(GenerationError, match=f"{name}: expected places in the 3 tokens, got 4"):
            engine.submit(Request(prompt="abc", **{name: [4]}))  # type: ignore[arg-type]
        with pytest.raises(GenerationError, match=f"{name}: expected a non-negative integer"):
            Request(prompt="abc", **{name: [-4]})  # type: ignore[arg-type]


@pytest.mark.parametrize("equal", [True, False])
def test_prompts_in_progress_are_computed_once(
    kjv: LanguageModel, heldout: bytes, computed: list[int], equal: bool
) -> None:
    engine = Engine(kjv, prompt_tokens=64, cache=StateCache())
    tails = [b""] * 5 if equal else [bytes([65 + i]) * 40 for i in range(5)]
    requests = [
        Request(prompt=heldout[:400] + tail, options=SamplingOptions(), seed=i, max_tokens=4, id=str(i))
        for i, tail in enumerate(tails)
    ]
    results = outcomes(engine.run(requests))
    assert sum(computed) == 400 + sum(map(len, tails)) + 5 * 3
    assert [usage(results[str(i)]).cached_tokens for i in range(5)] == [0, 400, 400, 400, 400]
    for request in requests:
        same_as_alone(kjv, request, results[request.id])


def test_who_waits_for_a_cancelled_prompt_reads_it(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, prompt_tokens=16, cache=StateCache())
    engine.submit(Request(prompt="a", max_tokens=None, stop_tokens=(), id="talks"))
    engine.step()
    request = Request(prompt=heldout[:300], max_tokens=3, seed=2)
    engine.submit(replace(request, id="first"))
    engine.submit(replace(request, id="second"))
    for _ in range(6):
        engine.step()
    engine.cancel("first")
    events = [event for _ in range(25) for event in engine.step()]
    same_as_alone(kjv, request, outcomes(events)["second"])


def test_the_state_that_a_text_begins_from_is_part_of_the_key(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, cache=StateCache())
    states = [None, *(kjv.forward(list(text))[1] for text in (b"In", b"the"))]
    for repeat in range(2):
        for state in states:
            request = Request(prompt=heldout[:100], state=state, max_tokens=4, seed=1)
            outcome = one(engine, request)
            same_as_alone(kjv, request, outcome)
            assert usage(outcome).cached_tokens == 100 * repeat


def test_partitions(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, cache=StateCache())
    cached = [
        usage(one(engine, Request(prompt=heldout[:100], cache_key=key, max_tokens=1))).cached_tokens
        for key in ("a", "b", "", "a", "b")
    ]
    assert cached == [0, 0, 0, 100, 100]


def test_long_answers_leave_a_ladder(kjv: LanguageModel) -> None:
    engine = Engine(kjv, cache=StateCache())
    answer = one(engine, Request(prompt="In the", max_tokens=2600, stop_tokens=(), seed=1, speculate=False))
    assert engine.cache is not None
    assert engine.cache.stats.stored["ladder"] == 5  # at 512, 1024, 1536, 2048 and 2560
    text = [*b"In the", *answer.tokens]
    found = [
        engine.cache.find(("", ""), np.array(text[:length], np.int32)).snapshot for length in (600, 1100, 2100, 2600)
    ]
    assert [snapshot.count if snapshot else 0 for snapshot in found] == [6, 1024, 2048, 2560]
    for snapshot in found:
        assert snapshot is not None
        _, state = kjv.forward(text[: snapshot.count])
        assert snapshot.data.tobytes() == state.data.tobytes()


def test_a_restart_keeps_the_cache(kjv: LanguageModel, heldout: bytes, tmp_path: Path) -> None:
    request = Request(prompt=heldout[:300], max_tokens=5, seed=1, return_state=True)
    results = []
    for _ in range(2):
        cache = StateCache(folder=tmp_path)
        results.append(one(Engine(kjv, cache=cache), replace(request, prompt=heldout[: 300 + 40 * len(results)])))
        cache.close()
    assert [usage(outcome).cached_tokens for outcome in results] == [0, 300]
    same_as_alone(kjv, replace(request, prompt=heldout[:340]), results[1])


@pytest.mark.parametrize("answers", [True, False])
def test_a_cache_of_prompts_alone_has_no_states_of_answers(
    kjv: LanguageModel, heldout: bytes, *, answers: bool
) -> None:
    cache = StateCache(answers=answers)
    engine = Engine(kjv, cache=cache, speculation=None)
    first = Request(prompt=heldout[:100], options=GREEDY, max_tokens=600, stop_tokens=())
    outcome = one(engine, first)
    kinds = set(cache.stats.stored)
    assert kinds == ({"prompt", "answer", "ladder"} if answers else {"prompt"})
    assert usage(one(engine, replace(first, max_tokens=1))).cached_tokens == 100
    longer = usage(one(engine, replace(first, prompt=[*heldout[:100], *outcome.tokens, 10], max_tokens=1)))
    assert (longer.cached_tokens > 100) == answers
