"""AdamW over flat arrays: wrong arguments, sums of squares, and numbers at the limits of the type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.optimiser import adamw, squared_norm

USUAL = {"scale": 1.0, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-18, "keep": 1.0, "step": 1e-3, "root": 10.0}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 1 << 14, (1 << 14) + 3, 100_003])
def test_squares_are_summed_in_float64_whatever_the_threads(dtype: Any, size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    found = [squared_norm(x, threads) for threads in (1, 2, 5)]
    assert found == found[:1] * 3
    assert found[0] == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-13)


def test_squares_of_what_is_not_finite() -> None:
    assert np.isnan(squared_norm(np.array([1.0, np.nan]), 1))
    assert np.isinf(squared_norm(np.array([1.0, -np.inf]), 1))


def test_a_gradient_of_zeros_moves_nothing_even_without_epsilon() -> None:
    values, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    adamw(values, zeros, zeros.copy(), zeros.copy(), 1, **USUAL | {"epsilon": 1e-45})
    assert (values == 1).all()
    adamw(values, zeros, zeros.copy(), zeros.copy(), 1, **USUAL | {"keep": 0.5})
    assert (values == 0.5).all()


def test_mistakes() -> None:
    five, four = np.zeros(5), np.zeros(4)
    with pytest.raises(
        KernelError, match="expected 5 numbers in each array and at least one thread, got 5, 4, 5 and 1"
    ):
        adamw(five, five, four, five, 1, **USUAL)
    with pytest.raises(KernelError, match="at least one thread, got 5, 5, 5 and 0"):
        adamw(five, five, five, five, 0, **USUAL)
    with pytest.raises(KernelError, match="squared_norm: expected at least one thread, got 0"):
        squared_norm(five, 0)
