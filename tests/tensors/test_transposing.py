"""Matrices read in the other orientation, from sources in either one."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.config import Config
from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.kernels.matrix import pack, transposed, unpack
from rwkv_cy.records import replace
from rwkv_cy.tensors import transposing
from rwkv_cy.tensors.converter import Converter
from rwkv_cy.tensors.policy import Target
from rwkv_cy.tensors.reading import read_numbers, read_rows
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.tensors.transposing import TransposedReader, read_columns, strip_columns

NAME = "blocks.0.ffn.value.weight"
CONFIG = Config(d_model=8, num_layers=1, vocab_size=5, d_ffn=24)


def matrix(dtype: str = "f32") -> np.ndarray:
    storage = STORAGE_TYPES[dtype]
    return np.arange(8 * 24, dtype=np.uint8).repeat(storage.itemsize).view(storage.array_dtype).reshape(8, 24)


def source(dtype: str = "f32", *, stored_transposed: bool) -> MemorySource:
    parameters = {
        spec.name: Parameter(np.zeros(spec.shape, np.float32), "f32")
        for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG)
    }
    array = matrix(dtype)
    own = Parameter(transposed(array), dtype, transposed=True) if stored_transposed else Parameter(array, dtype)
    return MemorySource(CONFIG, {**parameters, NAME: own})


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
@pytest.mark.parametrize("stored_transposed", [False, True])
def test_columns_of_the_array(dtype: str, stored_transposed: bool) -> None:
    opened = source(dtype, stored_transposed=stored_transposed)
    info = opened.info(NAME)
    expected = matrix(dtype) if stored_transposed else matrix(dtype).T
    assert (info.shape, info.transposed, info.array_shape) == ((8, 24), stored_transposed, expected.T.shape)
    for first, count in ((0, len(expected)), (0, 3), (2, 5), (len(expected) - 1, 1)):
        found = read_columns(opened, info, first, count)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected[first : first + count].tobytes()


@pytest.mark.parametrize("stored_transposed", [False, True])
def test_rows_of_the_matrix(stored_transposed: bool) -> None:
    opened = source(stored_transposed=stored_transposed)
    assert read_rows(opened, opened.info(NAME), 3, 4).tobytes() == matrix()[3:7].tobytes()


def test_elements_in_canonical_order() -> None:
    opened = source(stored_transposed=True)
    for start, count in ((0, 192), (0, 1), (23, 2), (30, 90), (191, 1)):
        expected = matrix().reshape(-1)[start : start + count]
        assert read_numbers(opened, opened.info(NAME), start, count).tobytes() == expected.tobytes()


@pytest.mark.parametrize("columns_in_strip", [1, 5, 24])
def test_a_reader_goes_on_from_strip_to_strip(columns_in_strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transposing, "STRIP_BYTES", columns_in_strip * 8 * 4 + 3)
    opened = source(stored_transposed=False)
    assert strip_columns(opened.info(NAME)) == columns_in_strip
    expected = matrix().T.reshape(-1)
    for step in (1, 7, 50, 192):
        reader = TransposedReader(opened)
        for start in range(0, 192, step):
            buffer = np.empty(min(step, 192 - start), np.float32)
            reader.read_into(opened.info(NAME), buffer, start)
            assert buffer.tobytes() == expected[start : start + step].tobytes()
        # And back again.
        buffer = np.empty(20, np.float32)
        reader.read_into(opened.info(NAME), buffer, 3)
        assert buffer.tobytes() == expected[3:23].tobytes()


def test_a_strip_is_one_column_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transposing, "STRIP_BYTES", 1)
    opened = source(stored_transposed=False)
    assert strip_columns(opened.info(NAME)) == 1


class CountingSource(MemorySource):
    """Counts the reads."""

    reads = 0

    def read_into(self, name: str, buffer: np.ndarray, start: int = 0) -> None:
        self.reads += 1
        super().read_into(name, buffer, start)


@pytest.mark.parametrize(("columns_in_strip", "reads"), [(1, 3 * 24), (17, 3 * 24), (33, 2 * 24), (40, 1)])
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_are_encoded_from_strips(
    columns_in_strip: int, reads: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix whose orientation changes is read in strips, whatever the parts are that are encoded at a time."""
    monkeypatch.setattr(transposing, "STRIP_BYTES", columns_in_strip * 24 * 4)
    numbers = np.random.default_rng(0).standard_normal((40, 24), np.float32)
    config = replace(CONFIG, d_model=40)
    expected = pack(numbers, "q8")
    for step in (1, 2, 3):  # groups of 16 rows
        opened = CountingSource(config, {NAME: Parameter(transposed(numbers), "f32", transposed=True)})
        info = opened.info(NAME)
        target = Target(replace(info, dtype="q8", transposed=False))
        converter = Converter(opened, measure=True)
        result = np.empty(expected.nbytes, np.uint8)
        unit = step * info.codec.row_group * expected[0].nbytes
        for start in range(0, result.size, unit):
            converter.fill(target, result[start : start + unit], start, threads)
        assert result.tobytes() == expected.tobytes()
        assert opened.reads <= reads
        decoded = unpack(expected, "q8", numbers.shape)
        assert converter.rounding[NAME].largest == np.abs(decoded - numbers).max()
