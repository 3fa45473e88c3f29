"""Matrices whose transposes are quantized: stored, read, mapped, and refused if they contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from rwkv7_shapes import SMALL
from rwkv_cy import load
from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND, DatasetSpec
from rwkv_cy.storage.structure import structure_problems
from rwkv_cy.tensors.codecs import CODECS, GroupedCodec, StoredArray
from rwkv_cy.tensors.reading import read_blocks, read_numbers, read_rows
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.toolkit.convert import convert
from storage.small import FACTORS, HEADER, factor_tensors, forge, swap_after, write_small

NAME = "blocks.6.att.w2"
KEY = "parameters/blocks.6/att.w2"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path, factor_tensors())
    return path


def test_every_block_comes_back(model: Path) -> None:
    with open_model(model) as file:
        for name, shape in FACTORS.items():
            dtype, packed = factor_tensors()[name]
            info = file.info(name)
            assert (info.shape, info.encoded_shape, info.transposed) == (shape, shape[::-1], True)
            assert (info.dtype, info.array_shape, info.nbytes) == (dtype, packed.shape, packed.nbytes)
            buffer = np.empty(packed.size, np.uint8)
            file.read_into(name, buffer)
            assert buffer.tobytes() == packed.tobytes()
            view = file.view(name)
            assert view is not None
            assert view.tobytes() == packed.tobytes()
        assert file.verify().ok


def test_numbers_are_read_in_either_orientation(model: Path) -> None:
    with open_model(model) as file:
        for name, (rows, columns) in FACTORS.items():
            dtype, packed = factor_tensors()[name]
            info = file.info(name)
            transpose = unpack(packed, dtype, (columns, rows))
            for size in (1, 1000, 1 << 18):  # in the order of the array, as a transposed matrix of floats
                blocks = [*read_blocks(file, info, size)]
                np.testing.assert_array_equal(np.concatenate(blocks), transpose.reshape(-1))
                assert max(block.size for block in blocks) <= max(size, 16 * rows)
            np.testing.assert_array_equal(read_rows(file, info, 3, 20), transpose.T[3:23])
            np.testing.assert_array_equal(read_rows(file, info, 16, 8, transposed=True), transpose[16:24])
            for start, count in ((0, 1), (5, 37), (rows * columns - 40, 40)):
                expected = transpose.T.reshape(-1)[start : start + count]
                np.testing.assert_array_equal(read_numbers(file, info, start, count), expected)
                expected = transpose.reshape(-1)[start : start + count]
                np.testing.assert_array_equal(read_numbers(file, info, start, count, transposed=True), expected)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 65), (40, 200)])
def test_columns_are_decoded(dtype: str, shape: tuple[int, int]) -> None:
    packed = pack(np.random.default_rng(0).standard_normal(shape, np.float32), dtype)
    flat = packed.reshape(-1)
    largest = 0

    def read(start: int, count: int) -> np.ndarray:
        nonlocal largest
        largest = max(largest, count)
        return flat[start : start + count]

    codec = CODECS[dtype]
    assert isinstance(codec, GroupedCodec)
    numbers = unpack(packed, dtype, shape)
    for first in range(0, shape[1], 7):
        count = min(33, shape[1] - first)
        decoded = codec.decode_columns(StoredArray("", shape, packed.nbytes, read), first, count)
        np.testing.assert_array_equal(decoded, numbers.T[first : first + count])
    assert largest <= 3 * packed.shape[2]  # the blocks of 33 columns of one group


swap = partial(swap_after, KEY.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap(b"[64,64],", b"[64,96],"), r"expected an array \(6, 2, 544\) for q8 of shape \(96, 64\), got \(4"),
        (swap(b"[64,64],", b"[64],"), r"expected the rows and columns of a quantized, packed or transposed .* \(64,\)"),
        (swap(b"[64,64],", b'"64,64",'), "index: expected path, dtype, shape, offset and crc32"),
        (swap(b"[64,64],", b"null,"), "expected the rows and columns of a quantized, .* got None for q8"),
        (swap(b"[64,64],", b"[0,64],"), r"expected the rows and columns of a quantized, .* got \(0, 64\) for q8"),
        (swap(b"[64,64],", b"[64,9007199254740993],"), r"expected an array \(562949953421313, 2, 544\)"),
        (swap(b'"transposed', b'"matrix_shape":[64,64],"transposed'), "matrix_shape or transposed_shape, got both"),
        (swap(b'"q8"', b'"u8"'), r"expected the rows and columns of a quantized, .* got \(64, 64\) for u8"),
        (swap(b'"q8"', b'"bf12"'), "expected matrix_shape of a bf12 matrix, got transposed_shape; convert it again"),
        (swap(b'"q8"', b'"f16"'), "expected matrix_shape of a f16 matrix, got transposed_shape; convert it again"),
    ],
)  # fmt: skip
def test_an_inconsistent_index(model: Path, change: Callable[[bytes], bytes], message: str) -> None:
    forge(model, change)
    with pytest.raises(FormatError, match=message):
        open_model(model)


def test_a_shape_that_is_null_is_not_left_out(model: Path) -> None:
    def change(text: bytes) -> bytes:
        at = text.index(b"parameters/blocks.6/att.key.weight")
        return text[:at] + text[at:].replace(b'"offset"', b'"transposed_shape":null,"offset"', 1)

    forge(model, change)
    with pytest.raises(FormatError, match="expected the rows and columns of a quantized, .* got None for f32"):
        open_model(model)


def test_the_index_and_the_dataset_must_agree(model: Path) -> None:
    """The transpose of a square matrix is another matrix, of the same shape."""
    forge(model, swap(b'"transposed_shape"', b'"matrix_shape"'))
    with CheckedFile(model, MODEL_KIND) as checked:
        (problem,) = structure_problems(checked)
    assert problem == f"/{KEY}: expected an attribute matrix_shape, got none"


def test_only_quantized_blocks_can_be_those_of_a_transpose() -> None:
    DatasetSpec("a", "q8", (3, 3, 544), (70, 40), transposed_blocks=True).check()
    with pytest.raises(SpecError, match="a: expected matrix_shape of a f32 matrix, got transposed_shape"):
        DatasetSpec("a", "f32", (70, 40), (40, 70), transposed_blocks=True).check()


def write_forged(source: Path, target: Path, name: str, dtype: str, *, transposed: bool) -> None:
    """Write a model file again, with another type and orientation of one tensor."""
    with open_model(source) as file:
        infos = [file.info(name) for name in file.names()]
        changed = [
            TensorInfo(name, info.shape, dtype, name, dtype, 0, transposed) if info.name == name else info
            for info in infos
        ]

        def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
            buffer = np.zeros(count, info.codec.array_dtype)
            if info.name != name:
                file.read_into(info.name, buffer, start)
            return buffer

        write_model(target, HEADER if file.header is None else file.header, changed, read)


@pytest.mark.parametrize(
    ("name", "transposed", "message"),
    [
        ("blocks.0.att.w1", False, "blocks.0.att.w1: expected the q8 blocks of its transpose, got its own; convert"),
        ("blocks.0.att.key.weight", True, "key.weight: expected an array that is not transposed, got its transpose"),
        ("emb.weight", True, "emb.weight: expected a floating point type, got q8; convert the original"),
    ],
)
def test_what_kernels_do_not_take_is_refused(tmp_path: Path, name: str, transposed: bool, message: str) -> None:
    convert(write_safetensors(tmp_path / "s", random_checkpoint(SMALL["heads of 64"])), tmp_path / "m.h5", dtype="q8")
    write_forged(tmp_path / "m.h5", tmp_path / "forged.h5", name, "q8", transposed=transposed)
    with pytest.raises(SpecError, match=message):
        load(tmp_path / "forged.h5")
