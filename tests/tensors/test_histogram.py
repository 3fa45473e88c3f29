from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES, to_storage
from rwkv_cy.tensors.histogram import WeightHistogram


def histogram_of(values: list[float] | np.ndarray, dtype: str = "f64", parts: int = 1) -> WeightHistogram:
    histogram = WeightHistogram()
    for part in np.array_split(to_storage(np.asarray(values, np.float64), "f64", dtype), parts):
        histogram.add(part, dtype)
    return histogram


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_counts_of_any_bins(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    edges = np.linspace(-3, 3, 31)
    counts = histogram_of(values, dtype, parts=7).counts(edges)
    expected, _ = np.histogram(values, edges)
    assert np.abs(counts - expected).max() < 0.06 * expected.max()
    assert abs(counts.sum() - expected.sum()) < 100


def test_reach() -> None:
    values = np.random.default_rng(1).standard_normal(100_000)
    for share in (0.5, 0.9, 0.999):
        exact = np.quantile(np.abs(values), share)
        assert exact * 0.999 <= histogram_of(values).reach(share) <= exact * 1.04
    assert histogram_of(values).reach(1) == histogram_of(values).largest == np.float32(np.abs(values).max())
    assert histogram_of([0, 0]).reach(0.5) == 0
    assert histogram_of([]).reach(0.5) == 0


def test_zeros_subnormals_and_what_is_not_finite() -> None:
    histogram = histogram_of([0.0, -0.0, 1e-40, -1e-44, 2.0**-126, -1.0, 3e38, np.inf, -np.inf, np.nan, -np.nan], "f32")
    assert (histogram.zeros, histogram.subnormals, histogram.size) == (2, 2, 7)
    assert histogram.largest == np.float32(3e38)
    assert histogram.counts([-np.inf, 0, np.inf]).tolist() == [2, 3]


def test_numbers_beyond_float32() -> None:
    histogram = histogram_of([1e300, -1e300, 1e-300, 1.0])
    assert (histogram.zeros, histogram.size) == (1, 2)
