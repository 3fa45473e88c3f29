"""LayerNorm and the head's matrix against their reference implementations."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import reference
from rwkv_cy.kernels.head import Head
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.tensors.tensor import Parameter

EPS = 1e-5


def _head(weight: np.ndarray, bias: np.ndarray, matrix: np.ndarray) -> Head:
    real = "f64" if matrix.dtype == np.float64 else "f32"
    arrays = {"ln_out.weight": weight, "ln_out.bias": bias, "head.weight": matrix}
    return Head({name: Parameter(array, real) for name, array in arrays.items()}, real, EPS)


def _logits(head: Head, x: np.ndarray, num_threads: int = 1) -> np.ndarray:
    out = np.full((len(x), head.matrix.shape[0]), 7, x.dtype)
    assert head.logits(x, out, Workspace(), num_threads)
    return out


def _norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """LayerNorm alone: times the identity, it is exact."""
    return _logits(_head(weight, bias, np.eye(x.shape[1], dtype=x.dtype)), x)


@pytest.mark.parametrize("width", [1, 3, 8, 16, 20, 33, 768])
def test_layer_norm_against_the_reference(isa: str, real: str, width: int) -> None:
    rng = np.random.default_rng(width)
    dtype = STORAGE_TYPES[real].array_dtype
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((5, width), width, width))
    y = _norm(x, weight, bias)
    expected = reference.layer_norm(*(a.astype(np.float64) for a in (x, weight, bias)), EPS)
    # One row of width 1 is its bias: (x - x) is 0.
    assert np.abs(y - expected).max() <= (1e-14 if real == "f64" else 4e-6) * max(1.0, np.abs(expected).max())


def test_a_large_mean_does_not_drown_the_variance(isa: str) -> None:
    x = (1000 + np.arange(64, dtype=np.float32) / 64).reshape(1, -1)
    ones = np.ones(64, np.float32)
    expected = reference.layer_norm(x.astype(np.float64), ones, 0 * ones, EPS)
    assert np.abs(_norm(x, ones, 0 * ones) - expected).max() < 1e-3


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_logits_against_the_reference(isa: str, real: str, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    dtype = STORAGE_TYPES[real].array_dtype
    shapes = ((tokens, 96), 96, 96, (301, 96))
    x, weight, bias, matrix = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    head = _head(weight, bias, matrix)
    logits = _logits(head, x)
    wide = [a.astype(np.float64) for a in (x, weight, bias, matrix)]
    expected = reference.layer_norm(*wide[:3], EPS) @ wide[3].T
    # 96 products of numbers around 1, in a tree of lanes.
    assert np.abs(logits - expected).max() <= 96 * np.finfo(dtype).eps * np.abs(expected).max()
    for threads in (2, 5):
        assert _logits(head, x, threads).tobytes() == logits.tobytes()
    for t in range(tokens):
        assert _logits(head, x[t : t + 1]).tobytes() == logits[t].tobytes()


def test_one_logit_that_is_not_finite_is_found_anywhere(isa: str, real: str) -> None:
    largest = np.finfo(STORAGE_TYPES[real].array_dtype).max
    ones, workspace = np.ones(1, STORAGE_TYPES[real].array_dtype), Workspace()
    # LayerNorm of one channel is its bias, here 1: logits are the weights.
    weights = np.array([0.0, -0.0, 1.0, largest, -largest, np.finfo(ones.dtype).smallest_normal] * 7, ones.dtype)
    out = np.empty((1, len(weights)), ones.dtype)
    assert _head(ones, ones, weights[:, np.newaxis]).logits(ones[np.newaxis], out, workspace)
    np.testing.assert_array_equal(out[0], weights)
    for wrong in (np.nan, -np.nan, np.inf, -np.inf):
        for i in range(len(weights)):
            damaged = weights.copy()
            damaged[i] = wrong
            head = _head(ones, ones, damaged[:, np.newaxis])
            assert not head.logits(ones[np.newaxis], out, workspace)
            np.testing.assert_array_equal(out[0], damaged)
            out[:] = 0
            assert head.logits(ones[np.newaxis], out, workspace, check=False)
            np.testing.assert_array_equal(out[0], damaged)


def test_no_tokens() -> None:
    assert _norm(np.empty((0, 4)), np.ones(4), np.ones(4)).shape == (0, 4)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3)])
def test_a_matrix_of_nothing(shape: tuple[int, int]) -> None:
    with pytest.raises(KernelError, match=rf"at least one row and column, got \({shape[0]}, {shape[1]}\)"):
        _head(np.ones(shape[1]), np.ones(shape[1]), np.ones(shape))


def test_widths_must_agree() -> None:
    for weight, bias in ((3, 4), (4, 5), (1, 1)):
        with pytest.raises(KernelError, match=r"expected weight and bias of ln_out of shape \(4,\)"):
            _head(np.ones(weight), np.ones(bias), np.ones((2, 4)))


@pytest.mark.parametrize(("x", "out"), [((2, 3), (2, 5)), ((2, 4), (1, 5)), ((2, 4), (2, 6)), ((0, 4), (2, 5))])
def test_shapes_must_agree(x: tuple[int, int], out: tuple[int, int]) -> None:
    head = _head(np.ones(4), np.ones(4), np.ones((5, 4)))
    with pytest.raises(KernelError, match=r"expected x \(tokens, 4\) and out \(tokens, 5\), got"):
        head.logits(np.ones(x), np.ones(out), Workspace())


def test_numbers_of_another_type() -> None:
    head = _head(np.ones(4), np.ones(4), np.ones((5, 4)))
    with pytest.raises(KernelError, match="expected numbers of 8 bytes, got 4"):
        head.logits(np.ones((1, 4), np.float32), np.ones((1, 5), np.float32), Workspace())


def test_a_thread_at_least() -> None:
    head = _head(np.ones(4), np.ones(4), np.ones((5, 4)))
    with pytest.raises(KernelError, match="Head: expected at least one thread, got 0"):
        head.logits(np.ones((1, 4)), np.ones((1, 5)), Workspace(), 0)


def test_the_norm_alone(isa: str, real: str) -> None:
    rng = np.random.default_rng(1)
    dtype = STORAGE_TYPES[real].array_dtype
    x, weight, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 33), 33, 33))
    head = _head(weight, bias, np.ones((2, 33), dtype))
    out = np.empty_like(x)
    for threads in (1, 3):
        out[...] = 7
        assert head.normalize(x, out, threads)
        assert out.tobytes() == _norm(x, weight, bias).tobytes()
    x[3, 32] = np.nan
    assert not head.normalize(x, out)
    assert head.normalize(x[:0], out[:0])


def test_what_the_norm_refuses() -> None:
    head = _head(np.ones(4), np.ones(4), np.ones((5, 4)))
    for x, out in (((2, 3), (2, 4)), ((2, 4), (1, 4)), ((2, 4), (2, 5))):
        with pytest.raises(KernelError, match=r"expected x and out \(tokens, 4\), got"):
            head.normalize(np.ones(x), np.ones(out))
    with pytest.raises(KernelError, match="expected numbers of 8 bytes, got 4"):
        head.normalize(np.ones((1, 4), np.float32), np.ones((1, 4), np.float32))
    with pytest.raises(KernelError, match="Head: expected at least one thread, got 0"):
        head.normalize(np.ones((1, 4)), np.ones((1, 4)), 0)
