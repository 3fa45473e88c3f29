"""Codecs: rows and numbers of block-quantized matrices, and errors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.dtypes import MATRIX_TYPES, QUANTIZED_TYPES, STORAGE_TYPES, to_storage, widen
from rwkv_cy.errors import NumericalError
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.storage import ModelFile, open_model, write_model
from rwkv_cy.tensors.codecs import CODECS, Codec, GroupedCodec, PlannedCodec, StoredArray, rows_at_once
from rwkv_cy.tensors.reading import read_numbers, read_rows
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import BARE_HEADER

SHAPE = (50, 70)


def weights() -> np.ndarray:
    return np.random.default_rng(3).standard_normal(SHAPE, dtype=np.float32)


def quantizer(dtype: str) -> GroupedCodec:
    codec = CODECS[dtype]
    assert isinstance(codec, GroupedCodec)
    return codec


def model(path: Path, dtype: str) -> ModelFile:
    packed = pack(weights(), dtype).reshape(-1)
    info = TensorInfo("m", SHAPE, dtype, "m", dtype, packed.nbytes)
    write_model(path, BARE_HEADER, [info], lambda info, start, count: packed[start : start + count])
    return open_model(path)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_rows_and_numbers_are_those_of_the_whole(tmp_path: Path, dtype: str) -> None:
    whole = unpack(pack(weights(), dtype), dtype, SHAPE)
    with model(tmp_path / "m", dtype) as source:
        info = source.info("m")
        for first, count in ((0, 16), (16, 32), (48, 2), (0, 50), (32, 18)):
            np.testing.assert_array_equal(read_rows(source, info, first, count), whole[first : first + count])
        for start, count in ((0, 1), (3499, 1), (0, 3500), (1119, 2), (1120, 1120), (1121, 1119), (3300, 200)):
            np.testing.assert_array_equal(read_numbers(source, info, start, count), whole.reshape(-1)[start:][:count])


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_numbers_need_no_more_than_their_groups(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    with model(tmp_path / "m", dtype) as source:
        info = source.info("m")
        original = ModelFile.read_into

        def watch(self: ModelFile, name: str, buffer: np.ndarray, start: int = 0) -> None:
            read.append((start // info.codec.group_size(info.shape), buffer.size // info.codec.group_size(info.shape)))
            original(self, name, buffer, start)

        monkeypatch.setattr(ModelFile, "read_into", watch)
        read_numbers(source, info, 1120, 1120)
        read_numbers(source, info, 1119, 2)
    assert read == [(1, 1), (0, 2)]


@pytest.mark.parametrize(("columns", "size", "rows"), [(32, 1 << 18, 8192), (65_600, 1 << 18, 16), (100, 1600, 16)])
def test_rows_at_once_are_whole_groups(columns: int, size: int, rows: int) -> None:
    assert rows_at_once(columns, 16, size) == rows


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_packing_is_the_kernels(dtype: str) -> None:
    np.testing.assert_array_equal(quantizer(dtype).encode_rows(weights(), "m"), pack(weights(), dtype))


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "m: expected finite weights to quantize to {}, got NaN or infinity; convert to another dtype, or get"),
        (np.inf, "m: expected finite weights to quantize to {}, got NaN or infinity"),
        (-9e6, r"m: expected weights that {} can hold, got up to 9e\+06; convert to another dtype"),
        (3e38, r"m: expected weights that {} can hold, got up to 3e\+38"),
    ],
)
def test_weights_that_no_step_fits_are_refused(dtype: str, value: float, message: str) -> None:
    bad = weights()
    bad[49, 69] = value
    with pytest.raises(NumericalError, match=message.format(dtype)):
        quantizer(dtype).encode_rows(bad, "m")


def test_the_largest_weights_that_a_step_fits() -> None:
    large = np.full((1, 32), 8e6, np.float32)
    np.testing.assert_allclose(unpack(quantizer("q8").encode_rows(large, "m"), "q8", (1, 32)), large, rtol=1e-3)


def test_every_storage_type_has_a_codec() -> None:
    assert set(CODECS) == {*STORAGE_TYPES, *MATRIX_TYPES}
    for name, codec in CODECS.items():
        assert codec.name == name
        assert codec.numbers in STORAGE_TYPES
        assert CODECS[codec.numbers].numbers == codec.numbers
        assert codec.matrices_only == (name in MATRIX_TYPES) == bool(codec.plain_types)


def encoded(codec: Codec, numbers: np.ndarray) -> np.ndarray:
    """The stored array of a matrix, encoded by rows."""
    if isinstance(codec, PlannedCodec):
        plan = codec.plan([numbers.reshape(-1)], numbers.shape)
        assert plan is not None
        parts = list(codec.encode(lambda first, count: numbers[first : first + count], numbers.shape, plan, "m"))
        assert sum(part.nbytes for part in parts) == plan.nbytes
    elif isinstance(codec, GroupedCodec):
        step = 2 * codec.row_group
        parts = [codec.encode_rows(numbers[first : first + step], "m") for first in range(0, len(numbers), step)]
    else:
        parts = [numbers]
    return np.concatenate([part.reshape(-1) for part in parts])


@pytest.mark.parametrize("dtype", CODECS)
def test_rows_come_back_as_they_were_encoded(dtype: str) -> None:
    """Decoded as a whole and by groups of rows; types that quantize come near, all others give the same numbers."""
    codec, shape = CODECS[dtype], (50, 256)
    weights = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    numbers = to_storage(weights, "f32", codec.numbers)
    array = encoded(codec, numbers)
    nbytes = array.nbytes
    assert array.size == math.prod(codec.array_shape(shape, nbytes))
    assert codec.shape_problem(codec.array_shape(shape, nbytes), shape) is None
    assert codec.shape_problem((3, 5), shape) is not None
    stored = StoredArray("m", shape, nbytes, lambda start, count: array[start : start + count])
    codec.check(stored)
    decoded = codec.decode_rows(stored, 0, shape[0])
    for first, count in ((0, 16), (16, 32), (48, 2)):
        np.testing.assert_array_equal(codec.decode_rows(stored, first, count), decoded[first : first + count])
    np.testing.assert_allclose(widen(decoded, codec.numbers), weights, atol=0.5)
    assert (decoded == numbers).all() or codec.requantizes
