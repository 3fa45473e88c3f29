"""LayerNorm against its twin."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import reference
from rwkv_cy.kernels.norm import layer_norm


@pytest.mark.parametrize("width", [1, 3, 8, 16, 20, 33, 768])
def test_against_the_twin(isa: str, real: str, width: int) -> None:
    rng = np.random.default_rng(width)
    dtype = STORAGE_TYPES[real].array_dtype
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((5, width), width, width))
    y = layer_norm(x, weight, bias, 1e-5)
    expected = reference.layer_norm(*(a.astype(np.float64) for a in (x, weight, bias)), 1e-5)
    # One row of width 1 is its bias: (x - x) is 0.
    assert np.abs(y - expected).max() <= (1e-14 if real == "f64" else 4e-6) * max(1.0, np.abs(expected).max())
    for threads in (2, 5):
        assert layer_norm(x, weight, bias, 1e-5, threads).tobytes() == y.tobytes()


def test_a_large_mean_does_not_drown_the_variance(isa: str) -> None:
    x = (1000 + np.arange(64, dtype=np.float32) / 64).reshape(1, -1)
    ones = np.ones(64, np.float32)
    expected = reference.layer_norm(x.astype(np.float64), ones, 0 * ones, 1e-5)
    assert np.abs(layer_norm(x, ones, 0 * ones, 1e-5) - expected).max() < 1e-3


def test_no_tokens() -> None:
    assert layer_norm(np.empty((0, 4)), np.ones(4), np.ones(4), 1e-5).shape == (0, 4)


def test_widths_must_agree() -> None:
    with pytest.raises(KernelError, match="expected x, weight and bias of one width, got 4, 3, 4"):
        layer_norm(np.ones((2, 4)), np.ones(3), np.ones(4), 1e-5)
    with pytest.raises(KernelError, match="of one width, got 0, 0, 0"):
        layer_norm(np.ones((2, 0)), np.ones(0), np.ones(0), 1e-5)


def test_a_thread_at_least() -> None:
    with pytest.raises(KernelError, match="layer_norm: expected at least one thread, got 0"):
        layer_norm(np.ones((2, 4)), np.ones(4), np.ones(4), 1e-5, 0)
