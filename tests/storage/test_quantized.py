"""Quantized matrices in model files: stored, read, mapped, and refused if their shapes are inconsistent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import h5py
import numpy as np
import pytest

from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import FormatError, KernelError, SpecError
from rwkv_cy.kernels.matrix import Matrix
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND, PAGE, DatasetSpec
from rwkv_cy.storage.structure import structure_problems
from rwkv_cy.tensors.codecs import CODECS
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import (
    HEADER,
    MATRIX_SHAPES,
    forge,
    packed_tensors,
    quantized_tensors,
    swap_after,
    tensors,
    transposed_tensors,
    write_small,
)

KEY = "parameters/blocks.0/att.value.weight"
LARGE = "blocks.1.ffn.key.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path, {name: value for name, value in quantized_tensors().items() if name != LARGE})
    return path


def test_every_block_comes_back(tmp_path: Path) -> None:
    contents = write_small(tmp_path / "model.h5", quantized_tensors())
    with open_model(tmp_path / "model.h5") as file:
        assert file.names() == tuple(contents)
        for name, shape in MATRIX_SHAPES.items():
            dtype, packed = contents[name]
            info = file.info(name)
            assert (info.shape, info.dtype, info.source_dtype, info.source_nbytes) == (
                shape,
                dtype,
                dtype,
                packed.nbytes,
            )
            assert (info.array_shape, info.nbytes) == (packed.shape, packed.nbytes)
            buffer = np.empty(packed.size, np.uint8)
            file.read_into(name, buffer)
            assert buffer.tobytes() == packed.tobytes()
            file.read_into(name, buffer[:7], 545)
            assert buffer[:7].tobytes() == packed.reshape(-1)[545:552].tobytes()
            view = file.view(name)
            assert view is not None
            assert packed.nbytes < PAGE or view.ctypes.data % PAGE == 0
            np.testing.assert_array_equal(view, packed)
            assert Matrix(view, dtype, shape=shape).shape == shape
        assert file.verify().ok


def test_a_read_beyond_the_blocks_is_refused(model: Path) -> None:
    with open_model(model) as file, pytest.raises(KernelError, match="expected elements within its 2176, got 2177"):
        file.read_into("blocks.0.att.key.weight", np.empty(2177, np.uint8))


def test_large_matrices_are_chunked_by_groups(tmp_path: Path) -> None:
    write_small(tmp_path / "model.h5", quantized_tensors())
    with h5py.File(tmp_path / "model.h5") as file:
        dataset = file["parameters/blocks.1/ffn.key.weight"]
        assert dataset.shape == (257, 33, 544)
        assert dataset.chunks == (129, 33, 544)


SOME_QUANTIZED = quantized_tensors()


def of_types(*dtypes: str) -> dict[str, tuple[str, Any]]:
    return {name: value for name, value in SOME_QUANTIZED.items() if value[0] in dtypes}


VERSIONS = [
    (tensors(), (1, 0)),
    (of_types("q8", "q4"), (1, 1)),
    (packed_tensors(), (1, 2)),
    (of_types("q8", "q6", "q4"), (1, 3)),
    (of_types("q6") | packed_tensors(), (1, 3)),
    (SOME_QUANTIZED | packed_tensors(), (1, 4)),
    (transposed_tensors(), (2, 0)),
    (transposed_tensors() | of_types("q8", "q4"), (2, 0)),
    (transposed_tensors() | packed_tensors(), (2, 1)),
    (transposed_tensors() | of_types("q8", "q6"), (2, 2)),
    (transposed_tensors() | SOME_QUANTIZED, (2, 3)),
]


@pytest.mark.parametrize(("contents", "version"), VERSIONS, ids=lambda value: str(value) if len(value) == 2 else "")
def test_a_file_is_of_the_lowest_version_that_describes_it(
    tmp_path: Path, contents: dict[str, tuple[str, Any]], version: tuple[int, int]
) -> None:
    write_small(tmp_path / "model.h5", contents)
    with CheckedFile(tmp_path / "model.h5", MODEL_KIND) as checked:
        assert checked.footer.version == version
    with h5py.File(tmp_path / "model.h5") as file:
        assert (file.attrs["major"], file.attrs["minor"]) == version


def test_blocks_are_read_in_whole_groups(tmp_path: Path) -> None:
    """A group larger than the writer's block is requested at once; of smaller groups as many as fit."""
    wide, tall = (33, 65_600), (16_000, 130)
    counts: dict[str, list[int]] = {"wide": [], "tall": []}

    def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
        assert start == sum(counts[info.name])
        counts[info.name].append(count)
        return np.zeros(count, np.uint8)

    infos = [TensorInfo("wide", wide, "q8", "", "", 0), TensorInfo("tall", tall, "q4", "", "", 0)]
    write_model(tmp_path / "model.h5", HEADER, infos, read)
    assert counts["wide"] == [2050 * 544] * 3
    assert {count % (3 * 576) for count in counts["tall"]} == {0}
    assert max(counts["tall"]) <= 1 << 20
    assert len(counts["tall"]) == 2


def test_views_that_a_kernel_could_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_model(model) as file:
        assert file.view("blocks.0.att.key.weight") is not None
        monkeypatch.setattr(CODECS[file.info("blocks.0.att.key.weight").dtype], "alignment", 1 << 40)
        assert file.view("blocks.0.att.key.weight") is None
        assert file.view("ln_out.bias") is not None


@pytest.mark.parametrize(
    ("matrix_shape", "dtype", "message"),
    [
        (None, "q8", "expected the rows and columns of a quantized, packed or transposed matrix, .* got None for q8"),
        ((40, 70), "u8", r"and of no other tensor, got \(40, 70\) for u8; convert it again"),
        ((40, 70), "f32", r"expected columns and rows \(70, 40\) for f32 of shape \(40, 70\), got \(3, 3, 544\); conv"),
        (None, "bf12", "of a quantized, packed or transposed matrix, and of no other tensor, got None for bf12"),
        (
            (40, 70),
            "bf12",
            r"a: expected a multiple of 64 from 7936 to 19136 bytes for bf12 of shape \(40, 70\), got \(3",
        ),
        ((40, 70), "q6", r"a: expected an array \(3, 2, 832\) for q6 of shape \(40, 70\), got \(3, 3, 544\); convert"),
        ((40, 70), "q4", r"a: expected an array \(3, 2, 576\) for q4 of shape \(40, 70\), got \(3, 3, 544\); convert"),
    ],
)
def test_a_dataset_and_its_matrix_must_agree(matrix_shape: Any, dtype: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        DatasetSpec("a", dtype, (3, 3, 544), matrix_shape).check()


@pytest.mark.parametrize("nbytes", [7936 - 64, 7936 + 63, 19136 + 64])
def test_a_packed_matrix_has_a_size_that_can_be(nbytes: int) -> None:
    for possible in (7936, 8000, 19136):
        DatasetSpec("a", "bf12", (possible,), (40, 70)).check()
    with pytest.raises(SpecError, match=rf"expected a multiple of 64 from 7936 to 19136 bytes .* got \({nbytes},\)"):
        DatasetSpec("a", "bf12", (nbytes,), (40, 70)).check()


swap = partial(swap_after, KEY.encode())


MATRIX = b'"matrix_shape":[40,70]'
CONTRADICTION = r"expected an array \(.*\) for q8 of shape \(.*\), got \(3, 3, 54.\)"
FIELDS = "index: expected path, dtype, shape, offset and crc32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap(MATRIX + b",", b""), "expected the rows and columns of a quantized, .* got None for q8"),
        (swap(MATRIX, b'"matrix_shape":[40]'), r"expected the rows and columns of a quantized, .* \(40,\)"),
        (swap(MATRIX, b'"matrix_shape":[]'), r"expected the rows and columns of a quantized, .* got \(\)"),
        (swap(MATRIX, b'"matrix_shape":[0,70]'), "expected the rows and columns of a quantized"),
        (swap(MATRIX, b'"matrix_shape":[-40,70]'), "expected the rows and columns of a quantized"),
        (swap(MATRIX, b'"matrix_shape":[49,70]'), CONTRADICTION),
        (swap(MATRIX, b'"matrix_shape":[40,97]'), CONTRADICTION),
        (swap(MATRIX, b'"matrix_shape":[1e3,1]'), FIELDS),
        (swap(MATRIX, b'"matrix_shape":[4,true]'), FIELDS),
        (swap(MATRIX, b'"matrix_shape":"40,70"'), FIELDS),
        (swap(MATRIX, b'"matrix_shape":{}'), FIELDS),
        (swap(MATRIX, b'"matrix_shape":[40,99999999999999]'), CONTRADICTION),
        (swap(b"[3,3,544]", b"[3,3,545]"), CONTRADICTION),
        (swap(b"[3,3,544]", b"[3,1632]"), r"expected an array \(3, 3, 544\) for q8 .* got \(3, 1632\)"),
        (swap(b'"q8"', b'"q4"'), r"expected an array \(3, 2, 576\) for q4 of shape \(40, 70\), got \(3, 3, 544\)"),
        (swap(b'"q8"', b'"q6"'), r"expected an array \(3, 2, 832\) for q6 of shape \(40, 70\), got \(3, 3, 544\)"),
        (swap(b'"q8"', b'"q5"'), "expected one of u8, f64, f32, f16, bf16, q8, q6, q4, q4n, bf12, got 'q5'"),
        (swap(b'"q8"', b'"u8"'), r"and of no other tensor, got \(40, 70\) for u8"),
        (swap(b'"q8"', b'[8]'), FIELDS),
    ],
)  # fmt: skip
def test_an_inconsistent_index(model: Path, change: Callable[[bytes], bytes], message: str) -> None:
    forge(model, change)
    with pytest.raises(FormatError, match=message):
        open_model(model)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "expected 2 attributes, got 1"),
        (np.array([40, 71], "<u8"), "expected the attribute matrix_shape = (40, 70), got (40, 71)"),
        (np.array([40, 70], "<u4"), "expected the attribute matrix_shape = (40, 70), got None"),
        (np.array([40, 70, 1], "<u8"), "expected the attribute matrix_shape = (40, 70), got None"),
        (np.uint64(40), "expected the attribute matrix_shape = (40, 70), got None"),
        (h5py.Empty("<u8"), "expected the attribute matrix_shape = (40, 70), got None"),
        (np.zeros((1 << 12, 1), "<u8"), "expected the attribute matrix_shape = (40, 70), got None"),
    ],
)
def test_an_inconsistent_attribute(model: Path, value: Any, expected: str) -> None:
    forged = model.with_name("forged.h5")
    shutil.copy(model, forged)
    with h5py.File(forged, "r+", locking=False) as file:
        del file[KEY].attrs["matrix_shape"]
        if value is not None:
            file[KEY].attrs["matrix_shape"] = value
    with CheckedFile(model, MODEL_KIND) as checked:
        stand_in = SimpleNamespace(path=forged, kind=MODEL_KIND, footer=checked.footer, datasets=checked.datasets)
        assert structure_problems(cast("CheckedFile", stand_in)) == [f"/{KEY}: {expected}"]
        assert structure_problems(checked) == []


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_a_flipped_bit_is_found(model: Path, dtype: str) -> None:
    name = next(name for name, (found, _) in quantized_tensors().items() if found == dtype)
    content = bytearray(model.read_bytes())
    content[content.index(quantized_tensors()[name][1].tobytes()) + 100] ^= 1
    model.write_bytes(content)
    with open_model(model) as file:
        assert file.verify().damaged == (name,)
