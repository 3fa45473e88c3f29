"""Quantized matrices: bytes against the specification, products against NumPy, all paths against each other."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import GROUP_ROWS, QUANTIZED_TYPES
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import dispatch, reference
from rwkv_cy.kernels.matrix import Matrix, Workspace, make_matrix, pack, unpack
from rwkv_cy.tensors.tensor import Parameter

LEVELS = (0, 6, 12, 16, 20, 24, 27, 30, 33, 36, 39, 43, 47, 51, 57, 63)
SHAPES = [(1, 1), (3, 40), (16, 32), (17, 33), (16, 64), (40, 130), (50, 100), (33, 768)]


def weights(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_description(packed: np.ndarray, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Weights one by one, as docs/file-format.md and quant.h describe the bytes."""
    result = np.empty(shape)
    columns = QUANTIZED_TYPES[dtype].columns
    for row in range(shape[0]):
        for column in range(shape[1]):
            block = packed[row // GROUP_ROWS, column // columns].tobytes()
            lane, i = row % GROUP_ROWS, column % columns
            step = np.frombuffer(block, "<f2", 1, 2 * lane)[0].astype(np.float64)
            if dtype == "q4n":
                word = int(np.frombuffer(block, "<u2", 1, 2 * lane)[0])
                scale = float(np.array([word >> 1 & 0x7FE0], "<u2").view("<f2")[0]) / 256
                pair = block[32 + i // 8 * 64 + lane * 4 + i % 4]
                result[row, column] = (LEVELS[pair & 15 if i % 8 < 4 else pair >> 4] - (word & 63)) * scale
            elif dtype == "q8":
                q = np.frombuffer(block, np.int8, 1, 32 + i // 4 * 64 + lane * 4 + i % 4)[0]
                result[row, column] = int(q) * step
            else:
                least = np.frombuffer(block, "<f2", 1, 32 + 2 * lane)[0].astype(np.float64)
                pair = block[64 + i // 8 * 64 + lane * 4 + i % 4]
                q = pair & 15 if i % 8 < 4 else pair >> 4
                if dtype == "q6":
                    q |= (block[576 + i // 16 * 64 + lane * 4 + i % 4] >> i % 16 // 4 * 2 & 3) << 4
                result[row, column] = q * step + least
    return result


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_are_as_described(dtype: str, shape: tuple[int, int]) -> None:
    packed = pack(weights(shape), dtype)
    assert packed.shape == QUANTIZED_TYPES[dtype].packed_shape(shape)
    np.testing.assert_allclose(unpack(packed, dtype, shape), by_description(packed, dtype, shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "levels", "rms"),
    [("q8", 127, 0.006), ("q6", 31.5, 0.022), ("q4", 7.5, 0.09), ("q4n", 7.5, 0.071)],
    ids=QUANTIZED_TYPES,
)
def test_no_weight_is_off_by_much_more_than_half_a_step(dtype: str, levels: float, rms: float) -> None:
    w = weights((64, 256))
    packed = pack(w, dtype)
    columns = QUANTIZED_TYPES[dtype].columns
    largest = np.abs(w.reshape(64, -1, columns)).max(axis=-1, keepdims=True)
    error = np.abs(unpack(packed, dtype, w.shape) - w).reshape(64, -1, columns)
    # With least values the ends of a range may be clipped for the sake of its middle: by a quarter of it at most.
    assert (error <= largest / levels * (0.51 if dtype == "q8" else 4)).all()
    relative = np.sqrt((error**2).mean() / (w**2).mean())
    assert relative < rms


@pytest.mark.parametrize(("dtype", "most", "share"), [("q4", 15, 0.9), ("q6", 63, 0.97)])
def test_least_squares_are_better_than_the_plain_range(dtype: str, most: int, share: float) -> None:
    w = weights((64, 256))
    blocks = w.reshape(64, -1, 64)
    low, high = blocks.min(axis=-1, keepdims=True), blocks.max(axis=-1, keepdims=True)
    step = (high - low) / most
    plain = np.rint((blocks - low) / step) * step + low
    ours = unpack(pack(w, dtype), dtype, w.shape).reshape(blocks.shape)
    assert ((ours - blocks) ** 2).mean() < share * ((plain - blocks) ** 2).mean()


@pytest.mark.parametrize("dtype", ["q4", "q6", "q4n"])
@pytest.mark.parametrize("columns", [256, 75])
def test_errors_count_by_the_importance_of_columns(dtype: str, columns: int) -> None:
    w = weights((64, columns))
    importance = np.random.default_rng(3).uniform(0, 1, columns).astype(np.float32) ** 4
    equal, weighted = (unpack(pack(w, dtype, given), dtype, w.shape) for given in (None, importance))
    assert (importance * (weighted - w) ** 2).sum() < 0.97 * (importance * (equal - w) ** 2).sum()
    ones = pack(w, dtype, np.full(columns, 0.5, np.float32))
    assert ones.tobytes() == pack(w, dtype).tobytes()
    for nothing in (np.zeros(columns, np.float32), np.full(columns, 1e-30, np.float32)):
        assert np.abs(unpack(pack(w, dtype, nothing), dtype, w.shape) - w).max() < 1


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_zeros_and_tiny_numbers(dtype: str) -> None:
    assert (unpack(pack(np.zeros((20, 40), np.float32), dtype), dtype, (20, 40)) == 0).all()
    tiny = unpack(pack(np.full((20, 40), 1e-30, np.float32), dtype), dtype, (20, 40))
    assert np.abs(tiny).max() <= 1e-7
    constant = unpack(pack(np.full((20, 70), 0.5, np.float32), dtype), dtype, (20, 70))
    # A scale of q4n has six bits.
    np.testing.assert_allclose(constant, 0.5, rtol=1 / 64 if dtype == "q4n" else 1e-3)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_groups_of_rows_are_independent(dtype: str) -> None:
    w = weights((50, 100))
    parts = [pack(w[first : first + 16], dtype) for first in range(0, 50, 16)]
    assert np.concatenate(parts).tobytes() == pack(w, dtype).tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_product_against_the_reference(isa: str, dtype: str, shape: tuple[int, int]) -> None:
    packed = pack(weights(shape), dtype)
    wide = unpack(packed, dtype, shape).astype(np.float64)
    x = np.random.default_rng(1).standard_normal((9, shape[1])).astype(np.float32)
    y = Matrix(packed, dtype, 1.0, shape).matmul(x)
    # Each activation is off by half a step at most: the largest of its block over 254.
    columns = QUANTIZED_TYPES[dtype].columns
    padded = np.zeros((9, -(-shape[1] // columns) * columns))
    padded[:, : shape[1]] = np.abs(x)
    half = np.repeat(padded.reshape(9, -1, columns).max(axis=-1), columns, axis=-1)[:, : shape[1]] / 254
    bound = reference.matmul(np.abs(wide), half + 1e-5 * np.abs(x))
    assert (np.abs(y - reference.matmul(wide, x.astype(np.float64))) <= bound * 1.001 + 1e-6).all()


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_many_tokens_any_threads_same_bits(isa: str, dtype: str) -> None:
    for shape in ((37, 50), (600, 1000)):
        matrix = Matrix(pack(weights(shape), dtype), dtype, 0.5, shape)
        x = np.random.default_rng(2).standard_normal((21, shape[1])).astype(np.float32)
        one_by_one = np.concatenate([matrix.matmul(row[np.newaxis]) for row in x])
        workspace = Workspace()
        for threads in (1, 2, 5):
            for tokens in range(1, 22):
                assert matrix.matmul(x[:tokens], threads, workspace).tobytes() == one_by_one[:tokens].tobytes()


def test_instruction_sets_with_fused_products_agree_to_the_last_bit() -> None:
    # Lanes are rows, and blocks are summed in order: only a separate rounding of the product makes a difference.
    before = dispatch.active_instruction_set()
    try:
        for dtype in QUANTIZED_TYPES:
            matrix = Matrix(pack(weights((100, 300)), dtype), dtype, 1.0, (100, 300))
            x = np.random.default_rng(2).standard_normal((5, 300)).astype(np.float32)
            results = set()
            for name in dispatch.available_instruction_sets():
                if name != "portable" and dispatch.select_instruction_set(name):
                    results.add(matrix.matmul(x).tobytes())
            assert len(results) <= 1
    finally:
        dispatch.select_instruction_set(before)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_extremes_of_the_integers(isa: str, dtype: str) -> None:
    # Every product at its largest: sums of 16 bits would saturate.
    shape = (16, 64)
    for sign in (1.0, -1.0):
        w = np.full(shape, sign, np.float32)
        w[:, ::2] *= -1
        packed = pack(w, dtype)
        x = np.ones((3, 64), np.float32)
        x[:, ::2] *= -1
        stored = unpack(packed, dtype, shape)
        np.testing.assert_allclose(stored, w, rtol=0.04 if dtype == "q4n" else 2e-3)
        np.testing.assert_allclose(Matrix(packed, dtype, 1.0, shape).matmul(x), x @ stored.T, rtol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_what_is_not_finite_is_not_lost(isa: str, dtype: str, value: float) -> None:
    x = weights((2, 100))
    x[1, 70] = value
    y = Matrix(pack(weights((20, 100)), dtype), dtype, 1.0, (20, 100)).matmul(x)
    assert np.isfinite(y[0]).all()
    assert not np.isfinite(y[1]).any()


def test_tiny_and_huge_activations(isa: str) -> None:
    matrix = Matrix(pack(weights((20, 64)), "q8"), "q8", 1.0, (20, 64))
    x = weights((1, 64), 3)
    usual = matrix.matmul(x)
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(
            matrix.matmul(x * np.float32(scale)) / np.float32(scale), usual, rtol=1e-4, atol=1e-5
        )
    assert (matrix.matmul(x * np.float32(1e-44)) == 0).all()


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_a_double_model_widens_them(dtype: str) -> None:
    packed = pack(weights((20, 64)), dtype)
    matrix = make_matrix(Parameter(packed, dtype, (20, 64)), "f64")
    assert matrix.dtype == "f64"
    assert (matrix.array == unpack(packed, dtype, (20, 64))).all()


def test_what_is_refused() -> None:
    packed = pack(weights((20, 64)), "q8")
    with pytest.raises(KernelError, match="pack: expected a dtype of q8, q6, q4, q4n, got 'f16'"):
        pack(weights((2, 2)), "f16")
    for importance in (np.ones(3, np.float32), np.full(2, -1, np.float32), np.float32([1, np.nan])):
        with pytest.raises(KernelError, match=r"pack: expected importance that is finite and not negative, of shape"):
            pack(weights((2, 2)), "q4", importance)
    with pytest.raises(KernelError, match=r"pack: expected a matrix that is not empty, got \(0, 4\)"):
        pack(np.empty((0, 4), np.float32), "q8")
    with pytest.raises(KernelError, match="unpack: expected a dtype of q8, q6, q4, q4n, got 'q5'"):
        unpack(packed, "q5", (20, 64))
    with pytest.raises(KernelError, match=r"unpack: expected blocks \(3, 2, 544\), got \(2, 2, 544\)"):
        unpack(packed, "q8", (40, 64))
    with pytest.raises(KernelError, match=r"Matrix: expected the shape \(rows, cols\) of a q8 matrix, got None"):
        Matrix(packed, "q8")
    with pytest.raises(KernelError, match=r"expected contiguous uint8 blocks \(3, 2, 544\) for q8 of shape \(40, 64\)"):
        Matrix(packed, "q8", 1.0, (40, 64))
    odd = np.empty(packed.size + 1, np.uint8)
    start = 1 - odd.ctypes.data % 2
    with pytest.raises(KernelError, match="expected quantized blocks at an even address"):
        Matrix(odd[start : start + packed.size].reshape(packed.shape), "q8", 1.0, (20, 64))
