"""Transposed matrices: products have the bits of the row-major product, zeros or not; and transposition itself."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES, to_storage
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import Matrix, Workspace, make_matrix, transposed
from rwkv_cy.tensors.tensor import Parameter

#: (rows, cols): below, at and beside the lanes, the tiles of 128 outputs, the panels and their blocks, and more columns
#: than go in one step or are packed at a time.
SHAPES = [(1, 1), (3, 5), (5, 17), (16, 16), (48, 64), (97, 33), (128, 31), (130, 100), (257, 50), (300, 1000)]
SHAPES += [(53, 2100), (20, 4100)]
ZEROS = {"none": 0.0, "half": 0.5, "most": 0.9, "all": 1.0}


def weights(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    own = "f64" if dtype == "f64" else "f32"
    return to_storage(rng.standard_normal(shape).astype(STORAGE_TYPES[own].array_dtype), own, dtype)


def inputs(rng: np.random.Generator, shape: tuple[int, int], dtype: str, share: float) -> np.ndarray:
    x = rng.standard_normal(shape).astype(np.float64 if dtype == "f64" else np.float32)
    x[rng.random(shape) < share] = 0
    return x


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_the_bits_of_the_row_major_product(isa: str, dtype: str, zeros: str) -> None:
    rng, workspace = np.random.default_rng(0), Workspace()
    for shape in SHAPES:
        array = weights(rng, shape, dtype)
        by_columns = Matrix(transposed(array), dtype, 0.5, transposed=True)
        assert (by_columns.shape, by_columns.transposed) == (shape, True)
        for tokens in (1, 2, 3, 4, 5, 7, 26):
            x = inputs(rng, (tokens, shape[1]), dtype, ZEROS[zeros])
            expected = Matrix(array, dtype, 0.5).matmul(x).tobytes()
            for threads in (1, 2, 3, 8):
                assert by_columns.matmul(x, threads, workspace).tobytes() == expected


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("lone", [0, 7, 15, 16, 99])
def test_one_input_that_is_not_zero(isa: str, dtype: str, lone: int) -> None:
    array = weights(np.random.default_rng(lone), (70, 100), dtype)
    x = np.zeros((1, 100), array.dtype)
    x[0, lone] = -3
    y = Matrix(transposed(array), dtype, transposed=True).matmul(x)
    assert y.tobytes() == (array[:, lone] * -3).tobytes() == Matrix(array, dtype).matmul(x).tobytes()


def test_a_sum_that_is_zero_is_positive(isa: str, real: str) -> None:
    """Products that round to -0 are the one case in which a zero that is added could be seen."""
    tiny = np.finfo(STORAGE_TYPES[real].array_dtype).tiny
    array = np.full((50, 100), -tiny, STORAGE_TYPES[real].array_dtype)
    x = np.full((26, 100), tiny, array.dtype)
    x[:, 10:50] = 0
    for matrix in (Matrix(array, real), Matrix(transposed(array), real, transposed=True)):
        for tokens in (1, 5, 26):
            y = matrix.matmul(x[:tokens])
            assert (y == 0).all()
            assert not np.signbit(y).any()


def test_what_is_not_a_number(isa: str, real: str) -> None:
    array = np.ones((20, 30), STORAGE_TYPES[real].array_dtype)
    array[:, 3] = np.nan
    matrix = Matrix(transposed(array), real, transposed=True)
    x = np.ones((1, 30), array.dtype)
    assert np.isnan(matrix.matmul(x)).all()
    # As the docstring says: a weight that meets a zero is not read.
    x[0, 3] = 0
    assert (matrix.matmul(x) == 29).all()
    # An input that is NaN is not zero.
    x[0, 4] = np.nan
    assert np.isnan(matrix.matmul(x)).all()


def test_empty_products() -> None:
    for shape in ((4, 0), (0, 4)):
        matrix = Matrix(np.empty(shape[::-1], np.float32), "f32", transposed=True)
        assert matrix.matmul(np.zeros((2, shape[1]), np.float32)).tolist() == [[0] * shape[0]] * 2


@pytest.mark.parametrize("real", ["f32", "f64"])
@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_a_parameter_stored_transposed(dtype: str, real: str) -> None:
    rng = np.random.default_rng(1)
    array = weights(rng, (20, 30), dtype)
    by_columns = Parameter(transposed(array), dtype, transposed=True)
    assert by_columns.shape == (20, 30)
    x = inputs(rng, (1, 30), real, 0.5)
    expected = make_matrix(Parameter(array, dtype), real, 2.0).matmul(x)
    assert make_matrix(by_columns, real, 2.0).matmul(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["<u2", "<f2", "<f4", "<f8"])
def test_transposition(dtype: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((1, 1), (1, 9), (9, 1), (2, 2), (8, 8), (17, 23), (64, 32), (65, 97), (0, 3)):
        array = rng.integers(0, 1 << 16, shape).astype("<u2" if dtype == "<f2" else dtype).view(dtype)
        result = transposed(array)
        assert result.shape == shape[::-1]
        assert result.dtype == array.dtype
        assert result.tobytes() == array.T.tobytes()


def test_what_is_refused() -> None:
    with pytest.raises(KernelError, match="expected a floating point dtype for a transposed matrix, got q8"):
        Matrix(np.zeros((1, 1, 544), np.uint8), "q8", shape=(16, 32), transposed=True)
    for array in (np.zeros(3, np.float32), np.zeros((4, 4), np.float32)[:, ::2], np.zeros((2, 2), np.uint8)):
        with pytest.raises(
            KernelError, match="transposed: expected a contiguous, aligned matrix with items of 2, 4 or"
        ):
            transposed(array)
    matrix = np.zeros((4, 6), np.float32)
    for first, out in (
        (0, np.zeros((7, 4), np.float32)),
        (5, np.zeros((2, 4), np.float32)),
        (-1, np.zeros((2, 4), np.float32)),
        (0, np.zeros((2, 5), np.float32)),
        (0, np.zeros((2, 4))),
        (0, np.zeros((2, 8), np.float32)[:, ::2]),
    ):
        with pytest.raises(KernelError, match=r"transposed: expected a target for columns of float32 \(4, 6\)"):
            transposed(matrix, first, out)


def test_some_columns() -> None:
    array = np.arange(35, dtype=np.uint16).reshape(5, 7)
    out = np.zeros((3, 5), np.uint16)
    assert transposed(array, 2, out) is out
    assert (out == array.T[2:5]).all()
    assert (transposed(array, 6) == array.T[6:]).all()
