from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES, to_storage, widen
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.statistics import NonFinite, count_nonfinite, measure_tensor
from rwkv_cy.tensors.tensor import TensorInfo


class OneTensor:
    """A source of one tensor that records the size of each request."""

    path = Path("one")
    format = "test"

    def __init__(self, values: npt.NDArray[Any], dtype: str) -> None:
        self.values = to_storage(values.astype(np.float64), "f64", dtype)
        self.tensor = TensorInfo("t", values.shape, dtype, "t", dtype, self.values.nbytes)
        self.largest = 0

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        assert name == "t"
        self.largest = max(self.largest, buffer.size)
        buffer[:] = self.values.reshape(-1)[start : start + buffer.size]


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_nan_and_infinities_are_counted(dtype: str) -> None:
    values = np.array([0.0, -0.0, 1.5, np.inf, -np.inf, np.nan, -np.nan, 3.0, np.inf])
    assert count_nonfinite(to_storage(values, "f64", dtype), dtype) == NonFinite(nan=2, inf=3)


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_the_largest_finite_numbers_are_no_infinities(dtype: str) -> None:
    bits = {"f64": "<u8", "f32": "<u4", "f16": "<u2", "bf16": "<u2"}[dtype]
    largest = {"f64": 0x7FEFFFFFFFFFFFFF, "f32": 0x7F7FFFFF, "f16": 0x7BFF, "bf16": 0x7F7F}[dtype]
    sign = 1 << (8 * np.dtype(bits).itemsize - 1)
    block = np.array([largest, largest | sign, 1], bits).view(STORAGE_TYPES[dtype].array_dtype)
    assert not count_nonfinite(block, dtype)


def test_an_empty_block_holds_none() -> None:
    assert count_nonfinite(np.empty(0, "<f4"), "f32") == NonFinite()


def test_counts_add_up() -> None:
    assert NonFinite(1, 2) + NonFinite(3, 4) == NonFinite(4, 6)
    assert not NonFinite()


@pytest.mark.parametrize(("size", "block"), [(10, 3), (9, 3), (1, 3), (2, 100)])
def test_blocks_are_the_tensor_in_pieces(size: int, block: int) -> None:
    source = OneTensor(np.arange(size), "f32")
    pieces = [piece.copy() for piece in read_blocks(source, source.tensor, block)]
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(size))
    assert source.largest <= block


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_statistics_equal_those_of_the_whole(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal((31, 7)) + 100
    values[3, :4] = 0
    source = OneTensor(values, dtype)
    found = measure_tensor(source, source.tensor, block_size=10)
    whole = widen(source.values, dtype, "f64")
    assert (found.minimum, found.maximum) == (whole.min(), whole.max())
    assert found.mean == pytest.approx(whole.mean(), rel=1e-13)
    assert found.std == pytest.approx(whole.std(), rel=1e-13)
    assert (found.zeros, found.nan, found.inf) == (4, 0, 0)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize("block", [1, 3000, 1 << 18])
def test_a_quantized_matrix_is_read_as_its_weights(dtype: str, block: int) -> None:
    values = np.random.default_rng(0).standard_normal((50, 70), dtype=np.float32)
    source = OneTensor(values, "f32")
    source.values = pack(values, dtype)
    source.tensor = TensorInfo("t", values.shape, dtype, "t", dtype, source.values.nbytes)
    weights = unpack(source.values, dtype, values.shape).reshape(-1)
    assert number_type(source.tensor) == "f32"
    pieces = list(read_blocks(source, source.tensor, block))
    np.testing.assert_array_equal(np.concatenate(pieces), weights)
    assert max(piece.size for piece in pieces) <= max(block, 16 * 70)
    found = measure_tensor(source, source.tensor, block)
    assert (found.minimum, found.maximum) == (weights.min(), weights.max())
    assert found.mean == pytest.approx(weights.astype(np.float64).mean(), rel=1e-12)


def test_statistics_leave_out_what_is_not_finite() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf, 0.0, -np.inf])
    source = OneTensor(values, "f32")
    found = measure_tensor(source, source.tensor, block_size=2)
    assert (found.minimum, found.maximum, found.mean) == (0.0, 3.0, pytest.approx(4 / 3))
    assert (found.zeros, found.nan, found.inf) == (1, 1, 2)


def test_a_tensor_of_nan_alone_has_no_mean() -> None:
    source = OneTensor(np.full(5, np.nan), "f16")
    found = measure_tensor(source, source.tensor)
    assert (found.minimum, found.maximum, found.mean, found.std, found.nan) == (None, None, None, None, 5)


def test_statistics_beyond_float64_are_none() -> None:
    source = OneTensor(np.array([1.5e308, -1.5e308, 1.7e308, 1.7e308]), "f64")
    found = measure_tensor(source, source.tensor)
    assert (found.minimum, found.maximum, found.std) == (-1.5e308, 1.7e308, None)
    source = OneTensor(np.full(3, 1.7e308), "f64")
    assert measure_tensor(source, source.tensor).mean is None
    source = OneTensor(np.array([1e300, -1e300, 1e300]), "f64")
    found = measure_tensor(source, source.tensor, block_size=1)
    assert (found.mean, found.std) == (pytest.approx(1e300 / 3), None)
