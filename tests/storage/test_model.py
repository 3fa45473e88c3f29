"""Model files written and read back: values, order, header, memory maps, positioned reads."""

from __future__ import annotations

import errno
import os
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import ConfigError, FormatError, KernelError, SpecError, StorageError
from rwkv_cy.files import reading as files
from rwkv_cy.storage import StoredTokenizer, is_model_file, open_model, write_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.file_writer import Content, write_file
from rwkv_cy.storage.schema import DatasetSpec
from rwkv_cy.storage.structure import structure_problems
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from storage.small import BARE_HEADER, HEADER, few_tensors, infos, python, reader, tensors, write_small


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path)
    return path


def test_every_number_comes_back(model: Path) -> None:
    with open_model(model) as file:
        assert isinstance(file, ParameterSource)
        assert file.names() == tuple(tensors())
        for name, (dtype, array) in tensors().items():
            info = file.info(name)
            assert (info.name, info.shape, info.dtype, info.source_nbytes) == (name, array.shape, dtype, array.nbytes)
            buffer = np.empty(array.size, array.dtype)
            file.read_into(name, buffer)
            assert buffer.tobytes() == array.tobytes()
            file.read_into(name, buffer[:3], 5)
            assert buffer[:3].tobytes() == array.reshape(-1)[5:8].tobytes()
            view = file.view(name)
            assert view is not None
            assert view.dtype == array.dtype
            assert view.shape == array.shape
            assert view.tobytes() == array.tobytes()
            assert not view.flags.writeable


def test_header_comes_back(model: Path) -> None:
    with open_model(model) as file:
        assert file.header == HEADER
        assert file.format == "hdf5"
        assert file.metadata["architecture"] == "rwkv4"
        assert file.metadata["config.d_model"] == "8"
        assert file.metadata["source.name"] == "small.pth"
        assert file.metadata["tokenizer"] == "world"
        assert set(file.checksums) == set(tensors())


@pytest.mark.parametrize("tokenizer", [None, StoredTokenizer("bytes", b"")])
def test_header_without_vocabulary(tmp_path: Path, tokenizer: StoredTokenizer | None) -> None:
    header = replace(HEADER, tokenizer=tokenizer)
    write_small(tmp_path / "model.h5", header=header)
    with open_model(tmp_path / "model.h5") as file:
        assert file.header == header
        assert ("tokenizer" in file.metadata) == (tokenizer is not None)


def test_source_is_told_at_the_end(tmp_path: Path) -> None:
    calls = []
    contents = tensors()

    def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
        calls.append(info.name)
        return reader(contents)(info, start, count)

    def finish() -> dict[str, str]:
        assert calls[-1] == list(contents)[-1]
        return {"sha256": "00" * 32}

    write_model(tmp_path / "model.h5", HEADER, infos(contents), read, finish=finish)
    with open_model(tmp_path / "model.h5") as file:
        assert file.header.source == {**HEADER.source, "sha256": "00" * 32}


def test_source_must_fit_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"header: expected at most .* bytes, got .*; shorten it"):
        write_small(tmp_path / "model.h5", finish=lambda: {"name": "x" * (1 << 16)})
    assert list(tmp_path.iterdir()) == []


def test_the_same_input_gives_the_same_file(model: Path) -> None:
    again = model.with_name("again.h5")
    write_small(again)
    assert again.read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    "shape",
    [(16384,), (16385,), (1, 1, 40000), (129, 4099), (5, 40, 1111), (3, 1 << 20), (2, 2), (1,), (1, 1), (700, 127)],
)
def test_every_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
    write_small(tmp_path / "model.h5", {"a": ("f32", array), "b": ("f32", array[:1])})
    with open_model(tmp_path / "model.h5") as file:
        view = file.view("a")
        assert view is not None
        np.testing.assert_array_equal(view, array)
    with CheckedFile(tmp_path / "model.h5", "model") as checked:
        assert structure_problems(checked) == []


def test_large_tensors_begin_at_a_page(model: Path) -> None:
    with open_model(model) as file:
        view = file.view("emb.weight")
        assert view is not None
        assert view.ctypes.data % 4096 == 0


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    done: list[int] = []
    write_small(tmp_path / "model.h5", progress=done.append)
    read: list[int] = []
    with open_model(tmp_path / "model.h5") as file:
        report = file.verify(read.append)
    assert sum(done) == sum(read) == report.nbytes


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    large = TensorInfo("emb.weight", (4096, 4096), "f32", "", "f32", 0)
    with open_model(write_and_return(tmp_path / "first.h5")):
        tracemalloc.start()
        write_model(tmp_path / "m.h5", HEADER, [large], lambda info, start, count: np.full(count, start, "<f4"))
        with open_model(tmp_path / "m.h5") as file:
            assert file.verify().ok
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


def write_and_return(path: Path) -> Path:
    write_small(path)
    return path


def test_opening_needs_no_hdf5(model: Path) -> None:
    program = (
        "import sys; from rwkv_cy.storage import open_model; m = open_model(sys.argv[1]); m.view('emb.weight').sum();"
        "assert 'h5py' not in sys.modules"
    )
    done = subprocess.run(python(program, model), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_views_outlive_the_file_and_its_name(model: Path) -> None:
    with open_model(model) as file:
        view = file.view("emb.weight")
    assert view is not None
    write_small(model, few_tensors(), overwrite=True)
    np.testing.assert_array_equal(view, tensors()["emb.weight"][1])
    with open_model(model) as file:
        assert file.names() == tuple(few_tensors())


def test_a_file_system_that_cannot_map(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENODEV, "no mmap here")

    monkeypatch.setattr(files, "MappedFile", refuse)
    with open_model(model) as file:
        assert file.view("emb.weight") is None
        buffer = np.empty(130 * 128, "<f4")
        file.read_into("emb.weight", buffer)
    np.testing.assert_array_equal(buffer, tensors()["emb.weight"][1].reshape(-1))


def test_truncated_under_the_map(model: Path) -> None:
    with open_model(model) as file:
        file.check()
        os.truncate(model, model.stat().st_size - 1)
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            file.check()
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            file.verify()


def test_wrong_requests(model: Path) -> None:
    with open_model(model) as file:
        with pytest.raises(KeyError):
            file.info("no.such")
        with pytest.raises(KernelError, match=r"head.weight: expected elements within its 1056, got 2 from 1055"):
            file.read_into("head.weight", np.empty(2, "<f4"), 1055)
        with pytest.raises(KernelError, match=r"head.weight: expected a writable contiguous 1-D buffer of float32"):
            file.read_into("head.weight", np.empty(2, "<f2"))
    with pytest.raises(StorageError, match="expected an open file, got a closed one"):
        file.read_into("head.weight", np.empty(2, "<f4"))


def test_is_model_file(model: Path) -> None:
    assert is_model_file(model)
    other = model.with_name("other")
    other.write_bytes(b"\x89HDF")
    assert not is_model_file(other)
    other.write_bytes(b"")
    assert not is_model_file(other)
    with pytest.raises(StorageError, match="cannot open it: No such file"):
        is_model_file(model.with_name("missing"))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "error", "message"),
    [
        ("", "f32", (2,), SpecError, "expected a name of letters"),
        ("../x", "f32", (2,), SpecError, "expected a name of letters"),
        ("/x", "f32", (2,), SpecError, "expected a name of letters"),
        ("a\0b", "f32", (2,), SpecError, "expected a name of letters"),
        ("é", "f32", (2,), SpecError, "expected a name of letters"),
        ("x" * 1_000_000, "f32", (2,), SpecError, "expected a name of letters"),
        ("a", "q7", (2,), ConfigError, "dtype: expected one of"),
        ("a", "f32", [2, 2], SpecError, r"parameters/a: expected a shape that is a tuple of int, got .*; convert it"),
        ("a", "f32", np.array([2, 2]), SpecError, "parameters/a: expected a shape that is a tuple of int"),
        ("a", "f32", (2.0,), SpecError, "parameters/a: expected a shape that is a tuple of int"),
        ("a", "q8", (2,), SpecError, r"parameters/a: expected a matrix to store as q8, got shape \(2,\); store it in"),
        ("a", "q4", (2, 2, 2), SpecError, r"expected a matrix to store as q4, got shape \(2, 2, 2\)"),
        ("a", "q8", (0, 2), SpecError, r"expected 1 to 8 dimensions, none of them 0, .* got shape \(0, 1, 544\)"),
        ("a", "q8", (2, 2), SpecError, r"expected 544 elements of uint8 to write, got float32 of shape \(2,\)"),
        ("a", "u8", (2,), ConfigError, "dtype: expected one of"),
        ("a", "f32", (), SpecError, r"expected 1 to 8 dimensions, none of them 0, .* got shape \(\)"),
        ("a", "f32", (2, 0), SpecError, r"expected 1 to 8 dimensions, none of them 0, .* got shape \(2, 0\)"),
        ("a", "f32", (-1,), SpecError, r"expected 1 to 8 dimensions"),
        ("a", "f32", (1,) * 9, SpecError, r"expected 1 to 8 dimensions"),
        ("a", "f32", (1 << 25, 1 << 25), SpecError, r"at most 2\*\*48 elements"),
        ("a", "f32", (3,), SpecError, r"expected 3 elements of float32 to write, got float32 of shape \(2,\)"),
        ("a", "f64", (2,), SpecError, r"expected 2 elements of float64 to write, got float32 of shape \(2,\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored(
    tmp_path: Path, name: str, dtype: str, shape: tuple[int, ...], error: type[Exception], message: str
) -> None:
    info = TensorInfo(name, shape, dtype, name, dtype, 8)
    with pytest.raises(error, match=message):
        write_model(tmp_path / "model.h5", HEADER, [info], lambda info, start, count: np.zeros(2, "<f4"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("blocks", [[], [b"1234567"], [b"1234", b"56789"]])
def test_another_number_of_bytes_than_the_shape_says(tmp_path: Path, blocks: list[bytes]) -> None:
    content = Content(DatasetSpec("a", "f32", (2,)), lambda: map(memoryview, blocks))
    with pytest.raises(SpecError, match="a: expected 8 bytes, got a different number; match its shape"):
        write_file(tmp_path / "a.h5", "state", [content], overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("a", "a"), ("blocks.0", "blocks.0.ln1.weight")])
def test_two_tensors_of_one_name(tmp_path: Path, names: tuple[str, str]) -> None:
    found = [TensorInfo(name, (2,), "f32", name, "f32", 8) for name in names]
    with pytest.raises(SpecError, match="expected one tensor of that name, got two; rename one"):
        write_model(tmp_path / "model.h5", HEADER, found, lambda info, start, count: np.zeros(2, "<f4"))


def test_more_tensors_than_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.storage.index.MAX_DATASETS", 3)
    with pytest.raises(SpecError, match="tensors: expected at most 3, got 8; this is not an RWKV model"):
        write_small(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"eps": float("nan")}}, "header: expected text, finite numbers"),
        ({"config": {"big": 10**30}}, "header: expected text, finite numbers"),
        ({"config": {1: 2}}, r"header: .* \(it would not be the same when read back"),
        ({"config": {"list": [1]}}, "header: expected architecture, config"),
        ({"source": {"size": 3}}, "header: expected architecture, config"),
        ({"architecture": None}, "header: expected architecture, config"),
        ({"tokenizer": StoredTokenizer("other", b"")}, "header: expected architecture, config"),
        ({"source": {"name": "x" * (1 << 20)}}, "header: expected at most 1048576 bytes, got"),
        ({"tokenizer": StoredTokenizer("world", bytes((64 << 20) + 1))}, "tokenizer: expected at most 67108864 bytes"),
    ],
)
def test_headers_that_cannot_be_stored(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    header = replace(BARE_HEADER, **changes)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=message):
        write_small(tmp_path / "model.h5", header=header)
    assert list(tmp_path.iterdir()) == []
