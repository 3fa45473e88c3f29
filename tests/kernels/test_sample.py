"""The top-p boundary against a full sort."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.sample import nucleus_boundary


def sorted_boundary(
    values: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], top_p: float
) -> tuple[float, int]:
    order = np.argsort(-values, kind="stable")
    reached = np.cumsum(weights[order], dtype=np.float64) >= top_p * weights.sum(dtype=np.float64)
    last = int(np.argmax(reached)) if reached.any() else len(values) - 1
    taken = values[order[: last + 1]]
    return float(taken[-1]), int(np.count_nonzero(taken == taken[-1]))


def boundary(values: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], top_p: float) -> tuple[float, int]:
    total = float(weights.sum(dtype=np.float64))
    return nucleus_boundary(values, weights, total, top_p, np.empty(2 * values.size, dtype=np.float32))


@given(
    st.lists(st.sampled_from([-30.0, -3.0, -2.5, -1.0, -0.5, 0.0, -100.0, -0.001]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.85, 0.99]),
)
@settings(max_examples=300, deadline=None)
def test_few_values_many_equal(numbers: list[float], top_p: float) -> None:
    values = np.array([*numbers, 0.0], dtype=np.float32)
    weights = np.exp(values)
    value, equals = boundary(values, weights, top_p)
    expected, expected_equals = sorted_boundary(values, weights, top_p)
    assert value == expected
    assert abs(equals - expected_equals) <= 1  # sums in another order may end one token earlier or later


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.85, 0.999])
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 5_000])
def test_many_values(spread: float, top_p: float, size: int) -> None:
    values = (np.random.default_rng(7).standard_normal(size) * spread).astype(np.float32)
    weights = np.exp(values - values.max())
    value, equals = boundary(values, weights, top_p)
    taken = weights[values > value].sum(dtype=np.float64)
    total = weights.sum(dtype=np.float64)
    one = float(weights[values == np.float32(value)][0])
    assert taken + equals * one >= top_p * total * (1 - 1e-9)
    assert taken + (equals - 1) * one <= top_p * total * (1 + 1e-9)
    assert value == pytest.approx(sorted_boundary(values, weights, top_p)[0], abs=1e-3)


def test_a_sum_that_rounding_keeps_from_the_end() -> None:
    values = np.linspace(-1, 0, 1_000, dtype=np.float32)
    weights = np.exp(values)
    scratch = np.empty(2_000, dtype=np.float32)
    for n in (1_000, 100):  # with buckets, and sorted at once
        total = float(weights[:n].sum(dtype=np.float64)) * (1 + 1e-6)
        assert nucleus_boundary(values[:n], weights[:n], total, 1.0, scratch) == (-1.0, 1)


def test_arrays_of_the_wrong_length() -> None:
    three, two = np.ones(3, dtype=np.float32), np.ones(2, dtype=np.float32)
    with pytest.raises(KernelError, match="expected lengths 3 and 6, not 0, got 2 and 2"):
        nucleus_boundary(three, two, 1.0, 0.5, two)
    with pytest.raises(KernelError, match="expected lengths 0 and 0, not 0, got 0 and 3"):
        nucleus_boundary(three[:0], three[:0], 1.0, 0.5, three)


@pytest.mark.parametrize(("total", "top_p"), [(0.0, 0.5), (np.nan, 0.5), (1.0, -0.1), (1.0, 1.1), (1.0, np.nan)])
def test_numbers_out_of_range(total: float, top_p: float) -> None:
    one = np.ones(1, dtype=np.float32)
    with pytest.raises(KernelError, match="expected 0 <= top_p <= 1 and total > 0, got"):
        nucleus_boundary(one, one, total, top_p, np.ones(2, dtype=np.float32))
