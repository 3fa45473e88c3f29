"""Rows of an embedding against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES, to_storage, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.tensors.tensor import Parameter

IDS = np.array([3, 0, 3, 6], np.int64)


def _numbers(dtype: str) -> np.ndarray:
    """Seven rows of five: small and large, subnormal in float16, and none at all."""
    numbers = np.random.default_rng(7).standard_normal((7, 5)) * 10.0 ** np.arange(-6, 1)[:, np.newaxis]
    numbers[3] = [np.nan, np.inf, -np.inf, -0.0, 65504]
    return to_storage(numbers, "f64", dtype)


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_rows_are_widened(dtype: str, real: str) -> None:
    array = _numbers(dtype)
    rows = Embedding(Parameter(array, dtype), real).rows(IDS)
    expected = widen(array[IDS], dtype, real)
    assert rows.dtype == expected.dtype == STORAGE_TYPES[real].array_dtype
    np.testing.assert_array_equal(rows, expected)
    assert (np.signbit(rows) == np.signbit(expected)).all()


def test_rows_need_not_lie_one_after_the_other(real: str) -> None:
    array = np.arange(60, dtype=np.float32).reshape(6, 10)[::-1, ::2]
    np.testing.assert_array_equal(Embedding(Parameter(array, "f32"), real).rows(IDS[:3]), array[IDS[:3]])


@pytest.mark.parametrize("given", [">f4", "f8", "f2", "i4"])
def test_numbers_of_another_type_than_they_should_be_of(given: str, real: str) -> None:
    array = np.arange(35).reshape(7, 5).astype(given)
    np.testing.assert_array_equal(Embedding(Parameter(array, "f32"), real).rows(IDS), array[IDS])


def test_no_tokens() -> None:
    assert Embedding(Parameter(np.ones((2, 3), np.float32), "f32"), "f32").rows(IDS[:0]).shape == (0, 3)


@pytest.mark.parametrize("wrong", [-1, 7, 2**62])
def test_rows_that_are_not_there(wrong: int) -> None:
    embedding = Embedding(Parameter(_numbers("f32"), "f32"), "f32")
    with pytest.raises(KernelError, match=f"expected a row from 0 to 6, got {wrong}"):
        embedding.rows(np.array([0, wrong], np.int64))


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        (Parameter(np.ones(3, np.float32), "f32"), r"f32 of shape \(3,\)"),
        (Parameter(np.ones((2, 1, 544), np.uint8), "q8", (32, 32)), r"q8 of shape \(32, 32\)"),
        (Parameter(np.ones((2, 3), np.float32), "f32", transposed=True), r"f32 of shape \(3, 2\)"),
    ],
)
def test_what_is_no_embedding(parameter: Parameter, found: str) -> None:
    with pytest.raises(KernelError, match=f"expected rows and columns of f32, f64, f16, bf16, .* got {found}"):
        Embedding(parameter, "f32")
