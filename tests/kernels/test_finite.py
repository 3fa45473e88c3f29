"""Finite or not, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.kernels.finite import all_finite


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype: type[np.floating]) -> None:
    largest = np.finfo(dtype).max
    x = np.array([0.0, -0.0, 1.0, largest, -largest, np.finfo(dtype).smallest_subnormal] * 7, dtype).reshape(3, 14)
    assert all_finite(x)
    for wrong in (np.nan, -np.nan, np.inf, -np.inf):
        for i in range(x.size):
            y = x.copy()
            y.flat[i] = wrong
            assert not all_finite(y)


def test_no_numbers() -> None:
    assert all_finite(np.empty((0, 5), np.float32))
    assert all_finite(np.empty((5, 0), np.float64))
