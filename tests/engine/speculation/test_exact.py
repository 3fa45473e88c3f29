"""Drafts of every source, right and wrong, change nothing but the number of passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from engine.helpers import alone, eager, outcomes, random_request, same_as_alone, small_model
from rwkv_cy.engine import Engine, Request, Speculation, StateCache
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


def drafted(engine: Engine, request: Request) -> tuple[int, int]:
    """Run a request, check it, and return how many tokens were drafted and accepted."""
    (outcome,) = outcomes(engine.run([request])).values()
    same_as_alone(engine.model, request, outcome)
    assert outcome.last is not None
    assert outcome.last.usage is not None
    return outcome.last.usage.drafted_tokens, outcome.last.usage.accepted_tokens


@pytest.mark.parametrize("count", [20, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cached", [False, True])
def test_random_requests_side_by_side(model: LanguageModel, heldout: bytes, cached: bool, count: int) -> None:
    rng = np.random.default_rng(3)
    requests = []
    for _ in range(count):
        request = random_request(rng, heldout, 100)
        if rng.random() < 0.4:  # a prompt that repeats itself
            request = replace(request, prompt=bytes(request.prompt[:20]) * 5)  # type: ignore[arg-type]
        right = alone(model, request)[1] if rng.random() < 0.5 else []
        wrong = [token if rng.random() < 0.8 else int(rng.integers(256)) for token in right]
        requests.append(replace(request, prediction=wrong))
    speculation = eager(most=int(rng.integers(1, 8)), model=model)
    engine = Engine(model, slots=6, prompt_tokens=32, speculation=speculation, cache=StateCache() if cached else None)
    results = outcomes(engine.run(requests))
    for number, request in enumerate(requests, 1):
        same_as_alone(model, request, results[f"request-{number}"])
    usages = [outcome.last.usage for outcome in results.values() if outcome.last is not None]
    accepted = sum(usage.accepted_tokens for usage in usages if usage is not None)
    assert 2 * count < accepted < sum(usage.drafted_tokens for usage in usages if usage is not None)


def test_a_text_that_repeats_itself(kjv: LanguageModel) -> None:
    verse = b"And he said unto them, Go ye into the city. "
    engine = Engine(kjv, speculation=eager())
    request = Request(prompt=verse * 6, options=GREEDY, max_tokens=80, stop_tokens=(), return_state=True)
    assert drafted(engine, request)[1] >= 40
    assert drafted(engine, replace(request, speculate=False)) == (0, 0)


def test_a_right_prediction_is_taken_whole(kjv: LanguageModel) -> None:
    request = Request(prompt="In the", options=GREEDY, max_tokens=64, stop_tokens=())
    text = "".join(kjv.generate("In the", temperature=0, max_tokens=64, stop_tokens=()))
    engine = Engine(kjv, speculation=eager(most=7, lookup=False))
    for prediction in (text, text.encode(), list(text.encode())):
        # The first token comes from the prompt; then 8 from each pass, one of them not drafted.
        assert drafted(engine, replace(request, prediction=prediction)) == (55, 55)
    assert drafted(engine, request) == (0, 0)


def test_forced_tokens(kjv: LanguageModel) -> None:
    script = list(b'{"name": "value", "number": 17}')

    class Grammar:
        """Forces a script, but for every fourth token."""

        def __call__(self, tokens: Sequence[int], logits: np.ndarray) -> None:
            allowed = [script[len(tokens)], ord("x")] if len(tokens) % 4 == 3 else [script[len(tokens)]]
            values = logits[allowed]
            logits[:] = -np.inf
            logits[allowed] = values

        def forced_tokens(self, tokens: Sequence[int]) -> Sequence[int]:
            return script[len(tokens) : len(tokens) // 4 * 4 + 3]

    engine = Engine(kjv, speculation=eager(lookup=False))
    request = Request(prompt="In the", seed=1, max_tokens=len(script), constraints=[Grammar()])
    tokens, accepted = drafted(engine, request)
    assert tokens == accepted > 10


def test_a_small_model_drafts(kjv: LanguageModel, kjv_checkpoint: object) -> None:
    small = load(kjv_checkpoint, dtype="q4")  # type: ignore[arg-type]
    engine = Engine(kjv, speculation=eager(lookup=False, model=small))
    tokens, accepted = drafted(engine, Request(prompt="In the beginning", options=GREEDY, max_tokens=80))
    assert accepted > tokens / 2 > 10


def test_memory_limits_drafts(kjv: LanguageModel) -> None:
    nbytes = kjv.encoder.numbers(None).nbytes
    for planes, longest in ((1, 0), (3, 2), (100, 7)):
        speculation = eager(max_bytes=planes * 4 * nbytes)
        assert speculation.longest(4, nbytes) == longest
    engine = Engine(kjv, slots=4, speculation=eager(max_bytes=4 * nbytes))
    assert drafted(engine, Request(prompt="abc" * 20, max_tokens=10, seed=1)) == (0, 0)


def test_rounded_activations_do_not_speculate(kjv_checkpoint: object) -> None:
    model = load(kjv_checkpoint, dtype="bf16", activations="bf16")  # type: ignore[arg-type]
    engine = Engine(model, speculation=eager())
    assert drafted(engine, Request(prompt="abc" * 5, max_tokens=10, options=GREEDY)) == (0, 0)


def test_errors(kjv: LanguageModel) -> None:
    for name in ("most", "max_bytes"):
        with pytest.raises(ConfigError, match=f"{name}: expected a positive integer, got 0"):
            Speculation(**{name: 0})
    with pytest.raises(ConfigError, match=r"model: expected a model, got str; rwkv_cy\.load makes a model of a file"):
        Speculation(model="small.h5")  # type: ignore[arg-type]
    other = LanguageModel.new(replace(small_model("rwkv4").config, vocab_size=300), 0)
    with pytest.raises(ConfigError, match="speculation: expected a model with the same vocabulary, 256 tokens, got"):
        Engine(kjv, speculation=Speculation(model=other))
