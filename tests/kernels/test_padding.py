"""Padding of quantized blocks, which may hold anything in an untrusted file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rwkv_cy.dtypes import GROUP_ROWS, QUANTIZED_TYPES
from rwkv_cy.kernels.matrix import Matrix, pack, unpack

SHAPE = (37, 70)


def with_rubbish(packed: np.ndarray, dtype: str) -> np.ndarray:
    """Return the blocks with random integers, and steps that are NaN, for what is not in the matrix."""
    rng = np.random.default_rng(1)
    result = packed.copy()
    header, run, runs = {"q8": (32, 4, 8), "q4n": (32, 8, 4)}.get(dtype, (64, 8, 8))
    for group, block, j, lane, k in itertools.product(*map(range, (*packed.shape[:2], runs, GROUP_ROWS, 4))):
        row = group * GROUP_ROWS + lane
        column = block * QUANTIZED_TYPES[dtype].columns + run * j + k
        missing = 0
        for i in range(run // 4):
            if row >= SHAPE[0] or column + 4 * i >= SHAPE[1]:
                missing |= 0xFF if dtype == "q8" else 0x0F << 4 * i
        at = (group, block, header + 64 * j + 4 * lane + k)
        result[at] = int(result[at]) & ~missing | int(rng.integers(256)) & missing
        if row >= SHAPE[0]:
            for start in range(2 * lane, header, 32):
                result[group, block, start : start + 2] = 0xFF
    if dtype == "q6":
        for group, block, j, lane, k in itertools.product(*map(range, (*packed.shape[:2], 4, GROUP_ROWS, 4))):
            missing = 0
            for i in range(4):
                if group * GROUP_ROWS + lane >= SHAPE[0] or block * 64 + 16 * j + 4 * i + k >= SHAPE[1]:
                    missing |= 3 << 2 * i
            at = (group, block, 576 + 64 * j + 4 * lane + k)
            result[at] = int(result[at]) & ~missing | int(rng.integers(256)) & missing
    return result


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize("tokens", [1, 9, 26])
def test_what_is_not_in_the_matrix_changes_nothing(isa: str, dtype: str, tokens: int) -> None:
    rng = np.random.default_rng(0)
    packed = pack(rng.standard_normal(SHAPE, dtype=np.float32), dtype)
    rubbish = with_rubbish(packed, dtype)
    assert (rubbish != packed).mean() > 0.1
    x = rng.standard_normal((tokens, SHAPE[1]), dtype=np.float32)
    expected = Matrix(packed, dtype, shape=SHAPE).matmul(x)
    np.testing.assert_array_equal(Matrix(rubbish, dtype, shape=SHAPE).matmul(x), expected)
    np.testing.assert_array_equal(unpack(rubbish, dtype, SHAPE), unpack(packed, dtype, SHAPE))


def test_an_integer_that_no_writer_writes(isa: str) -> None:
    packed = pack(np.ones((16, 64), np.float32), "q8")
    packed[:, :, 32:] = 0x80
    x = np.random.default_rng(0).choice(np.float32([-1, 1]), (9, 64))
    expected = x @ unpack(packed, "q8", (16, 64)).T
    np.testing.assert_allclose(Matrix(packed, "q8", shape=(16, 64)).matmul(x), expected, rtol=1e-6, atol=1e-6)
