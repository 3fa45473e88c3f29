"""Compressed bfloat16 (bf12): packing is lossless, and products have the bits of bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import f32_to_bf16, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.bf12 import count_exponents, pack_rows, unpack_rows
from rwkv_cy.kernels.matrix import Matrix, make_matrix
from rwkv_cy.kernels.packed import HEAD_BYTES, pack_matrix, packed_nbytes, stored_escapes, unpack_matrix
from rwkv_cy.tensors.tensor import Parameter

#: Rows and columns below, at and beside four and 128, and beside the lanes of every vector.
SHAPES = [(1, 1), (3, 5), (4, 128), (5, 129), (6, 127), (9, 300), (4, 143), (17, 256), (33, 391), (7, 2500)]


def weights(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    # As few of a matrix's weights as of a small one are small, and zeros are among them.
    values.reshape(-1)[:: max(values.size // 7, 1)] *= np.float32(1e-8)
    values.reshape(-1)[:: max(values.size // 3, 1)] = 0
    return f32_to_bf16(values)


def bits(rows: int, columns: int) -> np.ndarray:
    """Every bfloat16 there is, over and over."""
    return np.resize(np.random.default_rng(1).permutation(1 << 16).astype(np.uint16), (rows, columns))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_bit_is_lost(shape: tuple[int, int]) -> None:
    for words in (weights(shape), bits(*shape), np.zeros(shape, np.uint16), np.full(shape, 0xFFFF, np.uint16)):
        packed = pack_matrix(words)
        assert packed.size == packed_nbytes(shape, stored_escapes(packed))
        np.testing.assert_array_equal(unpack_matrix(packed, shape), words)


def test_every_bfloat16() -> None:
    words = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    packed = pack_matrix(words)
    assert stored_escapes(packed) == (256 - 16) * 256
    np.testing.assert_array_equal(unpack_matrix(packed, words.shape), words)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_bf16(isa: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    for words in (weights(shape), f32_to_bf16(rng.standard_normal(shape).astype(np.float32))):
        plain, packed = Matrix(words, "bf16", 0.5), Matrix(pack_matrix(words), "bf12", 0.5, shape)
        for tokens in (1, 2, 3, 4, 7, 26):
            x = rng.standard_normal((tokens, shape[1])).astype(np.float32)
            for threads in (1, 3):
                assert packed.matmul(x, threads).tobytes() == plain.matmul(x, threads).tobytes()


def test_products_with_every_finite_bfloat16(isa: str) -> None:
    words = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    words[~np.isfinite(widen(words, "bf16"))] = 0
    x = np.random.default_rng(3).standard_normal((26, 256)).astype(np.float32) * np.float32(1e-3)
    packed = Matrix(pack_matrix(words), "bf12", 1.0, words.shape)
    for tokens in (1, 5, 26):
        assert packed.matmul(x[:tokens]).tobytes() == Matrix(words, "bf16").matmul(x[:tokens]).tobytes()


def test_each_weight_stands_in_its_place(isa: str) -> None:
    words = weights((4, 256))
    rows = Matrix(pack_matrix(words), "bf12", 1.0, words.shape).matmul(np.eye(256, dtype=np.float32))
    np.testing.assert_array_equal(rows.T, widen(words, "bf16"))


def within(data: np.ndarray, fill: int) -> np.ndarray:
    """Return a copy of `data` in the middle of an array whose other bytes are `fill`."""
    around = np.full(data.size + 2 * 8192, fill, np.uint8)
    around[8192:-8192] = data
    return around[8192:-8192]


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_stay_within_the_matrix(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = bits(9, 300)
    packed = pack_matrix(words)
    for first, last in ((HEAD_BYTES, packed.size), (packed.size - 4 * (stored_escapes(packed) + 26), packed.size)):
        noise = packed.copy()
        noise[first:last] = rng.integers(0, 256, last - first)
        for tokens in (1, 5, 26):
            x = rng.standard_normal((tokens, 300)).astype(np.float32)
            # What an access outside of the matrix would find is different each time.
            results = {
                Matrix(within(noise, fill), "bf12", 1.0, words.shape).matmul(x, 2).tobytes() for fill in (0, 255)
            }
            assert len(results) == 1


def test_a_model_in_float64_unpacks() -> None:
    words = weights((5, 130))
    matrix = make_matrix(Parameter(pack_matrix(words), "bf12", words.shape), "f64")
    np.testing.assert_array_equal(matrix.array, widen(words, "bf16", "f64"))


def test_four_rows_do_not_depend_on_the_others() -> None:
    words = weights((13, 200))
    whole = pack_rows(words, np.arange(112, 128, dtype=np.uint8))
    parts = [pack_rows(words[r : r + 8], np.arange(112, 128, dtype=np.uint8)) for r in (0, 8)]
    for all_at_once, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(all_at_once, np.concatenate(pieces))


def test_exponents_are_counted() -> None:
    words = bits(3, 50_000).reshape(-1)
    counts = np.ones(256, np.int64)
    count_exponents(words, counts)
    count_exponents(words[:0], counts)
    np.testing.assert_array_equal(counts - 1, np.bincount(words >> 7 & 255, minlength=256))


def test_what_is_refused() -> None:
    words = weights((5, 130))
    packed = pack_matrix(words)
    table = np.arange(16, dtype=np.uint8)
    with pytest.raises(KernelError, match="count_exponents: expected 256 counts, got 255"):
        count_exponents(words.reshape(-1), np.zeros(255, np.int64))
    with pytest.raises(KernelError, match=r"pack_rows: expected 1 to 65536 columns and a table of 16, got \(0, 4\)"):
        pack_rows(np.empty((0, 4), np.uint16), table)
    with pytest.raises(KernelError, match=r"pack_rows: expected 1 to 65536 columns .* got \(1, 65537\)"):
        pack_rows(np.empty((1, 65537), np.uint16), table)
    with pytest.raises(KernelError, match=r"unpack_rows: expected 3072 bytes for \(5, 130\) and .* got 64 and 16"):
        unpack_rows(packed[:64], table, (5, 130))
    with pytest.raises(KernelError, match=r"Matrix: expected the shape \(rows, cols\) of a bf12 matrix, got None"):
        Matrix(packed, "bf12")
    with pytest.raises(KernelError, match=r"Matrix: expected contiguous bytes of a bf12 matrix, got uint8 \(32,\)"):
        Matrix(packed[:32], "bf12", 1.0, (5, 130))
    with pytest.raises(KernelError, match=r"Matrix: expected \d+ bytes for bf12 of shape \(9, 130\) with \d+ escapes"):
        Matrix(packed, "bf12", 1.0, (9, 130))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 1, "expected lists of 5 escapes one after the other"),
        (20, 4, "expected lists of 5 escapes one after the other"),
        (4, 6, "expected lists of 5 escapes one after the other"),
        (24, 130, "expected escapes in the order of their columns, below 130"),
        (28, 0, "expected escapes in the order of their columns, below 130"),
    ],
)
def test_lists_that_lead_elsewhere(place: int, value: int, message: str) -> None:
    words = np.full((5, 130), 0x3F80, np.uint16)
    words[:, :] += (np.arange(130) % 16 << 7).astype(np.uint16)
    words[1, [3, 100]] = words[2, [1, 2, 7]] = 0
    packed = pack_matrix(words)
    assert stored_escapes(packed) == 5
    packed[HEAD_BYTES + 3072 + place] = value
    with pytest.raises(KernelError, match=message):
        unpack_matrix(packed, words.shape)
