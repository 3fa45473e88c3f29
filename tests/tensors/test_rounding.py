from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import to_storage
from rwkv_cy.tensors.rounding import Rounding, measure_rounding


@pytest.mark.parametrize(("dtype", "stored"), [("f64", "f32"), ("f64", "bf16"), ("f32", "f16"), ("bf16", "f16")])
def test_the_error_between_numbers_and_what_is_stored(dtype: str, stored: str) -> None:
    numbers = to_storage(np.random.default_rng(0).standard_normal(1000), "f64", dtype)
    rounded = to_storage(numbers, dtype, stored)
    wide = [to_storage(array, own, "f64") for array, own in ((numbers, dtype), (rounded, stored))]
    error = measure_rounding(numbers, dtype, rounded, stored)
    assert error.largest == pytest.approx(np.abs(wide[1] - wide[0]).max())
    assert error.relative == pytest.approx(np.linalg.norm(wide[1] - wide[0]) / np.linalg.norm(wide[0]), rel=1e-5)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    numbers = np.array([1.0, np.nan, np.inf, 1e9, 3.0], np.float32)
    rounded = np.array([1.5, np.nan, np.inf, np.inf, 3.0], np.float16)
    assert measure_rounding(numbers, "f32", rounded, "f16") == Rounding(0.5, 0.25, 10.0)
    assert measure_rounding(numbers[1:3], "f32", rounded[1:3], "f16") == Rounding()
    assert Rounding().relative == 0


def test_errors_add_up() -> None:
    assert Rounding(0.5, 1.0, 2.0) + Rounding(0.25, 3.0, 2.0) == Rounding(0.5, 4.0, 4.0)
