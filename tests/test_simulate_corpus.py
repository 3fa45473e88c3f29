"""What a corpus takes: the simulation, and the page that it writes."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulate_corpus import (
    BITS,
    PERFORMANCE,
    ROOT,
    SHAPES,
    Cluster,
    Corpus,
    Rates,
    config_of,
    elements_of,
    outcome,
    simulate,
    tables,
)

QUICK = Cluster(1, spread=0, slow=0, load_seconds=0, storage=float("inf"), write_seconds=0)
CORPUS = Corpus(tokens=1e6, record_tokens=100, block=50)


def test_a_worker_takes_the_time_of_its_tokens() -> None:
    found = simulate(CORPUS, QUICK, speed=500, model_bytes=0)
    assert found.seconds == pytest.approx(1e6 / 500)
    assert found.efficiency == pytest.approx(1)


def test_workers_share_the_blocks_and_wait_for_the_last() -> None:
    blocks = CORPUS.blocks(np.random.default_rng(0))
    assert len(blocks) == 200
    assert blocks.sum() == pytest.approx(1e6)
    found = simulate(CORPUS, replace(QUICK, workers=150), speed=500, model_bytes=0)
    assert max(blocks) / 500 <= found.seconds <= 2 * max(blocks) / 500
    assert found.efficiency < 0.9
    assert found.limit == "last blocks"


@pytest.mark.parametrize(
    ("changed", "limit"),
    [
        ({"load_seconds": 1000.0}, "loading"),
        ({"storage": 1e3}, "loading"),
        ({"write_seconds": 30.0}, "writing"),
        ({"slow": 1.0}, "slow workers"),
    ],
)
def test_what_is_slow_is_named(changed: dict[str, float], limit: str) -> None:
    best = simulate(CORPUS, replace(QUICK, workers=4), speed=500, model_bytes=1e6)
    found = simulate(CORPUS, replace(QUICK, workers=4, **changed), speed=500, model_bytes=1e6)
    assert found.limit == limit
    assert found.seconds > best.seconds
    assert sum(found.lost.values()) + found.efficiency == pytest.approx(1)


def test_rates_are_those_of_the_page() -> None:
    rates = Rates.of(PERFORMANCE.read_text("utf-8"))
    assert set(rates.flops) == set(rates.generation) == set(BITS)
    small = config_of("0.1B")
    # The rates hold for the models that they come from, with their head left out.
    measured = re.search(r"RWKV-7 0\.4B, q8 +\| 2 +\|(?:[^|]*\|){4} +(\d+)", PERFORMANCE.read_text("utf-8"))
    assert measured is not None
    layers, _ = elements_of(config_of("0.4B"))
    assert rates.flops["q8"] == pytest.approx(layers * int(measured[1]), rel=rates.deviation)
    said = re.search(r"to within (\d+) %", (ROOT / "docs" / "batch-cost.md").read_text("utf-8"))
    assert said is not None
    assert int(said[1]) == math.ceil(100 * rates.deviation)
    for name in BITS:
        prompts = rates.tokens_per_second(small, name, 2, generates=False)
        assert rates.tokens_per_second(small, name, 16, generates=False) > 6 * prompts
        assert rates.tokens_per_second(small, name, 2, generates=True) < prompts


def test_loading_takes_about_half_of_the_time_of_a_thousand_workers() -> None:
    """As the page says, of a model of any size."""
    rates = Rates.of(PERFORMANCE.read_text("utf-8"))
    for size in SHAPES:
        found = outcome(rates, size, "q8", 16_384, Corpus(), generates=False)
        assert 0.45 <= found.lost["loading"] <= 0.55


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_command() -> None:
    page = (ROOT / "docs" / "batch-cost.md").read_text("utf-8")
    for name, table in tables(PERFORMANCE.read_text("utf-8")).items():
        assert f"<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->" in page, name
