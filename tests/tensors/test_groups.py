from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import NumericalError
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.storage import ModelFile, open_model, write_model
from rwkv_cy.tensors.groups import group_bytes, pack_rows, read_numbers, read_rows, rows_at_once
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import BARE_HEADER

SHAPE = (50, 70)


def weights() -> np.ndarray:
    return np.random.default_rng(3).standard_normal(SHAPE, dtype=np.float32)


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
            read.append((start // group_bytes(info), buffer.size // group_bytes(info)))
            original(self, name, buffer, start)

        monkeypatch.setattr(ModelFile, "read_into", watch)
        read_numbers(source, info, 1120, 1120)
        read_numbers(source, info, 1119, 2)
    assert read == [(1, 1), (0, 2)]


@pytest.mark.parametrize(("columns", "size", "rows"), [(32, 1 << 18, 8192), (65_600, 1 << 18, 16), (100, 1600, 16)])
def test_rows_at_once_are_whole_groups(columns: int, size: int, rows: int) -> None:
    assert rows_at_once(columns, size) == rows


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_packing_is_the_kernels(dtype: str) -> None:
    np.testing.assert_array_equal(pack_rows(weights(), dtype, "m"), pack(weights(), dtype))


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
        pack_rows(bad, dtype, "m")


def test_the_largest_weights_that_a_step_fits() -> None:
    large = np.full((1, 32), 8e6, np.float32)
    np.testing.assert_allclose(unpack(pack_rows(large, "q8", "m"), "q8", (1, 32)), large, rtol=1e-3)
