"""Penalties against their formulas, and n-grams that must not repeat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.text.sampling.options import SamplingOptions
from rwkv_cy.text.sampling.penalties import Penalties


def applied(options: SamplingOptions, history: list[int], logits: list[float]) -> npt.NDArray[np.float32]:
    penalties = Penalties(options)
    for token in history:
        penalties.observe(token)
    result = np.array(logits, dtype=np.float32)
    penalties.apply(result)
    return result


def test_presence_and_frequency_with_decay() -> None:
    options = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25, penalty_decay=0.9)
    result = applied(options, [1, 2, 1, 1], [0, 0, 0, 0])
    count_1 = 0.9**3 + 0.9 + 1
    count_2 = 0.9**2
    np.testing.assert_allclose(result, [0, -0.5 - 0.25 * count_1, -0.5 - 0.25 * count_2, 0], rtol=1e-6)


def test_as_the_loop_of_the_rwkv_package() -> None:
    """The package's dictionary, step by step; tokens 3 and 4 stand for spaces and digits there."""
    rng = np.random.default_rng(5)
    options = SamplingOptions(
        presence_penalty=0.3, frequency_penalty=0.2, penalty_decay=0.95, penalty_free_tokens=[3, 4], order="rwkv"
    )
    penalties = Penalties(options)
    occurrence: dict[int, float] = {}
    for token in rng.integers(0, 200, 400).tolist():
        logits = rng.standard_normal(200).astype(np.float32)
        expected = logits.astype(np.float64)
        for n in occurrence:
            expected[n] -= 0.3 + occurrence[n] * 0.2
        penalties.apply(logits)
        np.testing.assert_allclose(logits, expected, atol=1e-6)
        for n in occurrence:
            occurrence[n] *= 0.95
        occurrence[token] = occurrence.get(token, 0) + (0 if token in (3, 4) else 1)
        penalties.observe(token)


def test_free_tokens() -> None:
    options = SamplingOptions(presence_penalty=0.5, frequency_penalty=1.0, penalty_decay=0.5, penalty_free_tokens=[1])
    assert applied(options, [0, 1, 1], [0, 0, 0]).tolist() == [-0.75, 0, 0]


def test_repetition_penalty() -> None:
    options = SamplingOptions(repetition_penalty=2.0)
    assert applied(options, [0, 1, 1], [4, -4, 4]).tolist() == [2, -8, 4]


def test_repetition_window() -> None:
    options = SamplingOptions(repetition_penalty=2.0, repetition_window=2)
    assert applied(options, [0, 1, 2], [4, 4, 4]).tolist() == [4, 2, 2]


@pytest.mark.parametrize("penalty", [0.01, 100.0])
def test_logits_stay_finite(penalty: float) -> None:
    result = applied(SamplingOptions(repetition_penalty=penalty), [0, 1], [3e38, -3e38])
    assert np.isfinite(result).all()


def test_no_repeated_ngrams() -> None:
    def banned(n: int, history: list[int]) -> list[int]:
        return np.flatnonzero(np.isneginf(applied(SamplingOptions(no_repeat_ngram=n), history, [0] * 4))).tolist()

    assert banned(1, []) == []
    assert banned(1, [2, 3]) == [2, 3]
    assert banned(2, [1, 2, 1]) == [2]
    assert banned(2, [1, 2, 1, 3, 1]) == [2, 3]
    assert banned(3, [0, 1, 2, 0, 1]) == [2]
    assert banned(3, [0, 1, 2, 1]) == []
    assert banned(3, [0]) == []


def test_nothing_on_changes_nothing() -> None:
    assert applied(SamplingOptions(), [0, 1, 2], [1, 2, 3]).tolist() == [1, 2, 3]
