"""The sampler: randomness, memory, bans, and errors for logits that are NaN or Inf."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.sampling import Sampler, make_rng
from rwkv_cy.text.sampling.options import SamplingOptions


def drawn(options: SamplingOptions, seed: int | np.random.Generator, count: int = 60) -> list[int]:
    sampler = Sampler(options, 300, seed)
    noise = np.random.default_rng(1)
    return [sampler.sample(noise.standard_normal(300).astype(np.float32)) for _ in range(count)]


@pytest.mark.parametrize("order", ["temperature-first", "rwkv"])
def test_the_same_seed_gives_the_same_tokens(order: str) -> None:
    options = SamplingOptions(order=order, presence_penalty=0.2, frequency_penalty=0.2)
    assert drawn(options, 5) == drawn(options, 5) == drawn(options, np.random.default_rng(5))
    assert drawn(options, 5) != drawn(options, 6)


def test_greedy_uses_no_chance() -> None:
    rng = np.random.default_rng(0)
    sampler = Sampler(SamplingOptions(temperature=0), 4, rng)
    assert [sampler.sample(np.array([1, 3, 3, 2], dtype=np.float32)) for _ in range(5)] == [1] * 5
    assert rng.random() == np.random.default_rng(0).random()


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    sampler = Sampler(SamplingOptions(top_p=1.0), 4, 0)
    counts = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=4)
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.012)  # over 3 standard deviations


def test_as_numpy_choice_with_the_same_chance() -> None:
    """One uniform number a token, used as ``numpy.random.Generator.choice`` uses it."""
    logits = np.random.default_rng(2).standard_normal(300).astype(np.float32)
    sampler = Sampler(SamplingOptions(top_p=1.0), 300, 9)
    rng = np.random.default_rng(9)
    found = sampler.candidates(logits)
    for _ in range(50):
        assert sampler.sample(logits) == rng.choice(found.tokens, p=found.probabilities)


def test_the_last_uniform_number() -> None:
    class Highest(np.random.Generator):
        def random(self, *args: Any, **kwargs: Any) -> Any:
            return np.nextafter(1.0, 0.0)

    logits = np.full(7, -1.0, dtype=np.float32)
    sampler = Sampler(SamplingOptions(top_p=1.0), 7, Highest(np.random.PCG64(0)))
    assert sampler.sample(logits) == 6


def test_the_logits_are_left_as_they_are() -> None:
    logits = np.arange(5, dtype=np.float32)
    logits.flags.writeable = False
    options = SamplingOptions(logit_bias={0: 9.0}, banned_tokens=[4], presence_penalty=1.0)
    sampler = Sampler(options, 5, 0)
    sampler.sample(logits)
    sampler.sample(logits)
    assert logits.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "option",
    [
        {"logit_bias": {0: 9.0}},
        {"banned_tokens": [4]},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 2.0},
        {"no_repeat_ngram": 1},
    ],
)
def test_every_change_is_made_to_a_copy(option: dict[str, Any]) -> None:
    logits = np.arange(1, 6, dtype=np.float32)
    sampler = Sampler(SamplingOptions(temperature=0, **option), 5)
    chosen = [sampler.sample(logits) for _ in range(3)]
    assert logits.tolist() == [1, 2, 3, 4, 5]
    assert chosen != [4, 4, 4]


def test_bias_and_bans() -> None:
    logits = np.zeros(5, dtype=np.float32)
    greedy = SamplingOptions(temperature=0, logit_bias={3: 2.0, 2: 1.0}, banned_tokens=[3])
    assert Sampler(greedy, 5).sample(logits) == 2
    assert Sampler(SamplingOptions(temperature=0, logit_bias={1: 1e6}), 5).sample(logits) == 1


def test_candidates_remember_nothing() -> None:
    sampler = Sampler(SamplingOptions(temperature=0, presence_penalty=5.0), 3)
    logits = np.array([3, 2, 1], dtype=np.float32)
    assert [int(sampler.candidates(logits).tokens[0]) for _ in range(3)] == [0, 0, 0]
    assert [sampler.sample(logits) for _ in range(3)] == [0, 1, 2]


def test_observed_tokens_count() -> None:
    sampler = Sampler(SamplingOptions(temperature=0, no_repeat_ngram=1), 3)
    sampler.observe(0)
    assert sampler.sample(np.array([3, 2, 1], dtype=np.float32)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    logits = np.zeros(5, dtype=np.float32)
    logits[3] = bad
    with pytest.raises(
        GenerationError, match=f"logits: expected finite numbers, got {bad} for token 3; check the model"
    ):
        Sampler(SamplingOptions(), 5).sample(logits)


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 5), (5, 1), ()])
def test_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(GenerationError, match=r"logits: expected shape \(5,\), got \("):
        Sampler(SamplingOptions(), 5).sample(np.zeros(shape, dtype=np.float32))


def test_float64_logits() -> None:
    assert Sampler(SamplingOptions(temperature=0), 3).sample(np.array([1.0, 2.0, 3.0])) == 2
    with pytest.raises(GenerationError, match="logits: expected finite numbers, got inf for token 0"):
        Sampler(SamplingOptions(), 3).sample(np.array([1e300, 0.0, 0.0]))


def test_everything_banned() -> None:
    with pytest.raises(GenerationError, match="expected at least one token that is not banned"):
        Sampler(SamplingOptions(banned_tokens=range(3)), 3).sample(np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize("option", [{"banned_tokens": [7, 5]}, {"logit_bias": {5: 1.0}}, {"penalty_free_tokens": [5]}])
def test_ids_beyond_the_vocabulary(option: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=f"{next(iter(option))}: expected token ids below 5, got 5"):
        Sampler(SamplingOptions(**option), 5)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_what_is_no_seed(seed: Any) -> None:
    with pytest.raises(GenerationError, match="seed: expected a non-negative integer, got"):
        make_rng(seed)


@pytest.mark.oracle
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.0, 0), (0.3, 0), (0.85, 0), (0.85, 20), (0.99, 5)])
def test_as_the_rwkv_package(monkeypatch: pytest.MonkeyPatch, temperature: float, top_p: float, top_k: int) -> None:
    """The probabilities that its ``sample_logits`` hands to ``numpy.random.choice``."""
    torch = pytest.importorskip("torch", reason="needs torch")
    utils = pytest.importorskip("rwkv.utils", reason="needs the rwkv package")
    handed: list[Any] = []
    monkeypatch.setattr(np.random, "choice", lambda a, p: handed.append(p.copy()) or 0)
    pipeline = object.__new__(utils.PIPELINE)
    for seed in range(5):
        logits = (np.random.default_rng(seed).standard_normal(5_000) * 4).astype(np.float32)
        pipeline.sample_logits(torch.from_numpy(logits.copy()), temperature=temperature, top_p=top_p, top_k=top_k)
        options = SamplingOptions(temperature=temperature, top_p=top_p, top_k=top_k, order="rwkv")
        found = Sampler(options, 5_000).candidates(logits)
        theirs = handed.pop()
        assert found.tokens.tolist() == np.flatnonzero(theirs).tolist()
        np.testing.assert_allclose(found.probabilities, theirs[found.tokens], rtol=2e-5)
