"""Kernels over matrices of more than 2^31 elements or bytes: zeros, which take no memory, and a few rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES, to_storage, widen
from rwkv_cy.kernels.bf12 import PACKED_ROWS, group_nbytes, pack_rows
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.matrix import Matrix, pack, transposed, unpack
from rwkv_cy.kernels.packed import HEAD_BYTES, pack_head, packed_nbytes
from rwkv_cy.kernels.stream import Stream
from rwkv_cy.tensors.tensor import Parameter

pytestmark = pytest.mark.large

COLUMNS = 1 << 16
#: Of floats: the element 2^31 is in row 32,768. Of the other types: more than 2^31 bytes too.
ROWS, MORE_ROWS = 33_000, 66_004
#: One token, a few, and enough for packed panels.
TOKENS = (1, 3, 24)
THREADS = 2

Array = npt.NDArray[np.float32]


def numbers(*shape: int) -> Array:
    """Return numbers of magnitude 0.5 to 2, which every type represents with the same exponents."""
    rng = np.random.default_rng(len(shape))
    magnitudes = rng.uniform(0.5, 1.99, shape)
    return (magnitudes * rng.choice([-1.0, 1.0], shape)).astype(np.float32)


def check(matrix: Matrix, rows: dict[int, Array], tokens: int) -> None:
    """Compare a product with the sums of the rows that are not zero."""
    x = np.random.default_rng(1).standard_normal((tokens, COLUMNS)).astype(np.float32)
    y = matrix.matmul(x, num_threads=THREADS)
    for row, weights in rows.items():
        expected = x.astype(np.float64) @ weights.astype(np.float64)
        np.testing.assert_allclose(y[:, row], expected, rtol=0, atol=0.05 * COLUMNS**0.5)
        y[:, row] = 0
    assert not y.any()


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("stored_transposed", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_floats(dtype: str, stored_transposed: bool, tokens: int, isa: str) -> None:
    shape = (COLUMNS, ROWS) if stored_transposed else (ROWS, COLUMNS)
    array = np.zeros(shape, STORAGE_TYPES[dtype].array_dtype)
    by_row = array.T if stored_transposed else array
    # A few columns of a transposed matrix: a number in each of them would take a page of memory, or a huge one.
    columns = [0, 7, 32_768, COLUMNS - 1] if stored_transposed else slice(None)
    rows = {}
    for row in (0, 32_767, 32_768, ROWS - 1):
        by_row[row, columns] = to_storage(numbers(COLUMNS)[columns], "f32", dtype)
        rows[row] = widen(np.ascontiguousarray(by_row[row]), dtype, "f32")
    check(Matrix(array, dtype, transposed=stored_transposed), rows, tokens)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_quantized(dtype: str, tokens: int, isa: str) -> None:
    packed = np.zeros(QUANTIZED_TYPES[dtype].packed_shape((MORE_ROWS, COLUMNS)), np.uint8)
    assert packed.nbytes > 1 << 31
    rows = {}
    for first in (0, MORE_ROWS - MORE_ROWS % 16):
        count = min(16, MORE_ROWS - first)
        group = pack(numbers(count, COLUMNS), dtype)
        packed[first // 16] = group[0]
        rows |= dict(enumerate(unpack(group, dtype, (count, COLUMNS)), first))
    check(Matrix(packed, dtype, shape=(MORE_ROWS, COLUMNS)), rows, tokens)


@pytest.mark.parametrize("tokens", TOKENS)
def test_bf12(tokens: int, isa: str) -> None:
    """With one weight that is not in the table, in the last row, whose list is beyond 2^31 bytes."""
    shape, table = (MORE_ROWS, COLUMNS), np.array([0, *range(115, 130)], np.uint8)
    packed = np.zeros(packed_nbytes(shape, 1), np.uint8)
    packed[:HEAD_BYTES] = pack_head(table, 1)
    lists = HEAD_BYTES + MORE_ROWS // PACKED_ROWS * group_nbytes(COLUMNS)
    rows = {}
    for first in (0, MORE_ROWS - PACKED_ROWS):
        words = to_storage(numbers(PACKED_ROWS, COLUMNS), "f32", "bf16")
        chunks, escapes, _ = pack_rows(words, table)
        assert not len(escapes)
        offset = HEAD_BYTES + first // PACKED_ROWS * group_nbytes(COLUMNS)
        packed[offset : offset + chunks.size] = chunks
        rows |= dict(enumerate(widen(words, "bf16", "f32"), first))
    packed[lists + 4 * MORE_ROWS :][:4].view("<u4")[0] = 1  # the last row's list ends behind its only escape
    column, value = 40_000, np.float32(1024)
    packed[lists + 4 * (MORE_ROWS + 1) :][:4].view("<u2")[:] = column, to_storage(np.array([value]), "f32", "bf16")[0]
    rows[MORE_ROWS - 1][column] = value
    check(Matrix(packed, "bf12", shape=shape), rows, tokens)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_rows_of_an_embedding(dtype: str) -> None:
    array = np.zeros((MORE_ROWS, COLUMNS), STORAGE_TYPES[dtype].array_dtype)
    ids = np.array([0, 32_768, MORE_ROWS - 1])
    array[ids] = to_storage(numbers(len(ids), COLUMNS), "f32", dtype)
    found = Embedding(Parameter(array, dtype), "f32").rows(ids)
    assert found.tobytes() == widen(array[ids], dtype, "f32").tobytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_a_transposed_part(dtype: type[np.unsignedinteger]) -> None:
    array = np.zeros((ROWS, COLUMNS), dtype)
    array[[0, 32_768, ROWS - 1], [COLUMNS - 40, COLUMNS - 2, COLUMNS - 1]] = 1, 2, 3
    found = transposed(array, COLUMNS - 40)
    assert found.shape == (40, ROWS)
    assert found[[0, 38, 39], [0, 32_768, ROWS - 1]].tolist() == [1, 2, 3]
    assert np.count_nonzero(found) == 3


def test_a_stream() -> None:
    array = np.zeros((1 << 32) + 24, np.uint8)
    array[:8].view("<u8")[0] = 5
    array[-8:].view("<u8")[0] = 7
    assert Stream([array]).read(THREADS) == 12
