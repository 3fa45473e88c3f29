"""Files of arrays: written and read back; other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, SpecError, StorageError, UnsupportedError
from rwkv_cy.storage import open_model, read_arrays, write_arrays
from rwkv_cy.storage.checked_file import CheckedFile
from storage.small import change_index, overwrite_at, write_small

ATTRIBUTES = {"fingerprint": "0123abcd", "tokens": 3, "scale": 0.5}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.h5"
    write_arrays(path, "state", ATTRIBUTES, arrays())
    return path


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "aa": rng.standard_normal((3, 5, 8)).astype(np.float32),
        "pp": np.array([-np.inf, np.nan, -1e38]),
        "half.xx": rng.standard_normal((300, 200)).astype(np.float16),
    }


def test_arrays_come_back(path: Path) -> None:
    attributes, found = read_arrays(path, "state")
    assert attributes == ATTRIBUTES
    assert list(found) == list(arrays())
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.writeable


def test_any_memory_layout(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[:, ::-1]
    write_arrays(tmp_path / "a.h5", "state", {}, {"a": array})
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.h5", "state")[1]["a"], array)


def test_no_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.h5", "state", {}, {})
    assert read_arrays(tmp_path / "a.h5", "state") == ({}, {})


def test_overwriting(path: Path) -> None:
    with pytest.raises(StorageError, match="already exists"):
        write_arrays(path, "state", {}, {})
    write_arrays(path, "state", {}, {}, overwrite=True)
    assert read_arrays(path, "state") == ({}, {})


def test_damaged_numbers(path: Path) -> None:
    with CheckedFile(path, "state") as checked:
        offset = checked.entries["arrays/aa"].offset
    overwrite_at(path, offset + 17, b"\xff")
    with pytest.raises(FormatError, match="arrays/aa: the checksum does not match"):
        read_arrays(path, "state")


def test_files_of_another_kind(path: Path) -> None:
    with pytest.raises(UnsupportedError, match="expected a file of kind 'other', got 'state'; name a file"):
        read_arrays(path, "other")
    with pytest.raises(UnsupportedError, match="state.h5 is a state, not a model"):
        open_model(path)
    model = path.with_name("model.h5")
    write_small(model)
    with pytest.raises(UnsupportedError, match="model.h5 is a model, not a state"):
        read_arrays(model, "state")


def test_a_model_that_calls_itself_a_state(path: Path) -> None:
    write_small(path, overwrite=True)
    change_index(path, "model", lambda text: text.replace(b'"kind":"model"', b'"kind":"state"'))
    with pytest.raises(FormatError, match="header: expected attributes, got another header; save the file again"):
        read_arrays(path, "state")


def test_other_datasets(path: Path) -> None:
    change_index(path, "state", lambda text: text.replace(b"arrays/aa", b"xarray/aa"))
    with pytest.raises(FormatError, match="xarray/aa: expected an array, got another dataset; save the file again"):
        read_arrays(path, "state")


def test_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.storage.arrays._MAX_BYTES", 1000)
    with pytest.raises(FormatError, match=r"expected at most 1000 bytes of arrays, got [0-9]+; name another file"):
        read_arrays(path, "state")
    with pytest.raises(SpecError, match="arrays: expected at most 500 bytes in total, got more"):
        write_arrays(path, "state", {}, arrays(), overwrite=True)


@pytest.mark.parametrize("array", [np.zeros(3, np.int32), np.zeros(3, ">f4"), np.zeros(3, complex), np.array(["a"])])
def test_types_that_cannot_be_stored(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(SpecError, match="a: expected an array of float16, float32 or float64, got"):
        write_arrays(tmp_path / "a.h5", "state", {}, {"a": array})


@pytest.mark.parametrize("attributes", [{"a": None}, {"a": [1]}, {3: 4}])
def test_attributes_that_cannot_be_stored(tmp_path: Path, attributes: dict[str, int]) -> None:
    with pytest.raises(SpecError, match="attributes: expected names with numbers or text, got"):
        write_arrays(tmp_path / "a.h5", "state", attributes, {})
