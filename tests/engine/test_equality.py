"""Random requests of all kinds, whatever runs beside them and whatever the engine saves: what each gives alone."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.helpers import alone, outcomes, random_request, same_as_alone
from rwkv_cy.engine import Engine, Event, Request, Speculation, StateCache
from rwkv_cy.model.language_model import LanguageModel


def mixed_requests(model: LanguageModel, text: bytes, count: int) -> list[Request]:
    """Return requests that share beginnings, repeat themselves, and predict parts of their texts."""
    rng = np.random.default_rng(4)
    requests = []
    for number in range(count):
        request = random_request(rng, text, 200)
        prompt = bytes(request.prompt)  # type: ignore[arg-type]
        if rng.random() < 0.4:
            prompt = text[: int(rng.choice([50, 120, 260]))] + prompt
        if rng.random() < 0.2:
            prompt = prompt[:12] * 6
        request = replace(request, prompt=prompt, id=f"r{number}", max_tokens=int(rng.integers(0, 16)))
        if rng.random() < 0.3:
            right = alone(model, request)[1]
            request = replace(request, prediction=[t if rng.random() < 0.9 else 65 for t in right])
        requests.append(request)
    return requests


@pytest.mark.parametrize(("count", "hits"), [(20, 1), pytest.param(200, 25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("speculates", [False, True])
def test_random_requests_in_any_order(
    model: LanguageModel, heldout: bytes, cached: bool, speculates: bool, count: int, hits: int, tmp_path: Path
) -> None:
    requests = mixed_requests(model, heldout, count)
    rng = np.random.default_rng(int(cached) + 2 * int(speculates))
    rest = deque(requests[i] for i in rng.permutation(len(requests)))
    cache = StateCache(40 * model.encoder.numbers(None).nbytes, folder=tmp_path) if cached else None
    engine = Engine(
        model, slots=6, queue=8, prompt_tokens=40, cache=cache, speculation=Speculation() if speculates else None
    )
    events: list[Event] = []
    while rest or not engine.idle:
        for _ in range(int(rng.integers(0, 4))):
            if rest and engine.waiting < 8:
                engine.submit(rest.popleft())
        events += engine.step()
    results = outcomes(events)
    for request in requests:
        same_as_alone(model, request, results[request.id])
    if cache is not None:
        assert cache.stats.hits >= hits
        cache.close()


def test_cancelled_at_100_random_moments(kjv: LanguageModel, heldout: bytes) -> None:
    """A cancelled request gives up its slot at the next step, and disturbs nobody."""
    rng = np.random.default_rng(5)
    engine = Engine(kjv, slots=3, queue=20, prompt_tokens=24, cache=StateCache(), speculation=Speculation())
    kept = [replace(request, id=f"kept{i}") for i, request in enumerate(mixed_requests(kjv, heldout, 60))]
    rest, events, gone, live = deque(kept), [], 0, deque[str]()
    while gone < 100 or rest or not engine.idle:
        if rest and engine.waiting < 8 and rng.random() < 0.3:
            engine.submit(rest.popleft())
        if gone + len(live) < 100 and engine.waiting < 16:
            request = replace(random_request(rng, heldout, 300), max_tokens=None, id=f"gone{gone + len(live)}")
            live.append(engine.submit(replace(request, stop=(), stop_tokens=())))
        cancelled = [live.popleft() for _ in range(min(len(live), int(rng.integers(0, 3))))]
        assert all(engine.cancel(name) for name in cancelled)
        gone += len(cancelled)
        step = engine.step()
        assert {event.request_id for event in step if event.finish_reason == "cancelled"} == set(cancelled)
        assert not any(job.name in cancelled for job in (*engine._running, *engine._waiting))
        assert engine.running <= 3
        events += step
    assert (gone, engine.running, engine.waiting, len(engine._arena)) == (100, 0, 0, 3)
    results = outcomes(events)
    for request in kept:
        same_as_alone(kjv, request, results[request.id])
