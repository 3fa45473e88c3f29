"""Transposed matrices in model files: stored, read, mapped, and refused if inconsistent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from rwkv_cy.errors import FormatError, SpecError, UnsupportedError
from rwkv_cy.storage import footer as footer_module
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND, PAGE
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import HEADER, TRANSPOSED, forge, swap_after, tensors, transposed_tensors, write_small

NAME = "blocks.2.ffn.value.weight"
KEY = "parameters/blocks.2/ffn.value.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path, transposed_tensors())
    return path


def test_every_number_comes_back(model: Path) -> None:
    with open_model(model) as file:
        for name, (dtype, array) in transposed_tensors().items():
            info = file.info(name)
            is_transposed = name in TRANSPOSED
            assert (info.shape, info.transposed) == (TRANSPOSED.get(name, array.shape), is_transposed)
            assert (info.dtype, info.array_shape, info.nbytes) == (dtype, array.shape, array.nbytes)
            buffer = np.empty(array.size, array.dtype)
            file.read_into(name, buffer)
            assert buffer.tobytes() == array.tobytes()
            view = file.view(name)
            assert view is not None
            assert view.shape == array.shape
            assert view.tobytes() == array.tobytes()
            assert view.nbytes < PAGE or view.ctypes.data % PAGE == 0
        assert file.verify().ok


def test_large_matrices_are_chunked_by_columns(model: Path) -> None:
    with h5py.File(model) as file:
        dataset = file["parameters/blocks.4/ffn.value.weight"]
        assert dataset.shape == (4000, 300)
        assert dataset.chunks == (2000, 300)
        assert tuple(dataset.attrs["matrix_shape"]) == (300, 4000)


def test_only_such_a_file_is_of_version_2(model: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "plain.h5", tensors())
    for path, version in ((model, (2, 0)), (tmp_path / "plain.h5", (1, 0))):
        with CheckedFile(path, MODEL_KIND) as checked:
            assert checked.footer.version == version
        with h5py.File(path) as file:
            assert (file.attrs["major"], file.attrs["minor"]) == version


def test_a_reader_of_version_1_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footer_module, "MAJOR", 1)
    with pytest.raises(UnsupportedError, match=r"model.h5: expected version 1 .*got 2; update rwkv-cy to read it"):
        open_model(model)


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3)])
def test_only_a_matrix_can_be_stored_so(tmp_path: Path, shape: tuple[int, ...]) -> None:
    info = TensorInfo("a", shape, "f32", "", "", 0, transposed=True)
    with pytest.raises(SpecError, match=r"parameters/a: expected a matrix to store transposed, got shape .*3"):
        write_model(tmp_path / "model.h5", HEADER, [info], lambda info, start, count: np.zeros(count, np.float32))


swap = partial(swap_after, KEY.encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap(b"[10,30]", b"[30,10]"), r"expected columns and rows \(10, 30\) for bf16 of shape \(30, 10\), got"),
        (swap(b"[10,30]", b"[10,31]"), r"expected columns and rows \(31, 10\) for bf16 of shape \(10, 31\), got"),
        (swap(b"[10,30]", b"[300]"), r"expected the rows and columns of a quantized, packed or transposed .* \(300,\)"),
        (swap(b"[30,10]", b"[3,100]"), r"expected columns and rows \(30, 10\) for bf16 .* got \(3, 100\)"),
        (swap(b'"bf16"', b'"q8"'), r"expected an array \(1, 1, 544\) for q8 of shape \(10, 30\), got \(30, 10\)"),
    ],
)  # fmt: skip
def test_an_inconsistent_index(model: Path, change: Callable[[bytes], bytes], message: str) -> None:
    forge(model, change)
    with pytest.raises(FormatError, match=message):
        open_model(model)


def test_a_flipped_bit_is_found(model: Path) -> None:
    content = bytearray(model.read_bytes())
    content[content.index(transposed_tensors()[NAME][1].tobytes()) + 100] ^= 1
    model.write_bytes(content)
    with open_model(model) as file:
        assert file.verify().damaged == (NAME,)
