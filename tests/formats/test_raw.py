"""Raw tensors of one file: partial reads, memory maps, bounds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, KernelError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo


def tensor(name: str, offset: int, shape: tuple[int, ...]) -> RawTensor:
    nbytes = 4 * int(np.prod(shape))
    return RawTensor(TensorInfo(name, shape, "f32", name, "F32", nbytes), offset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "raw"
    path.write_bytes(np.arange(8, dtype="<f4").tobytes() + b"pad" + np.arange(2, dtype="<f4").tobytes())
    return path


@pytest.fixture
def source(path: Path) -> RawSource:
    tensors = {"a": tensor("a", 8, (2, 3)), "odd": tensor("odd", 35, (2,))}
    return RawSource(FileBytes(path), "raw", tensors, {"key": "value"})


def test_is_a_parameter_source(source: RawSource) -> None:
    with source as entered:
        assert isinstance(entered, ParameterSource)
        assert source.names() == ("a", "odd")
        assert source.info("a").shape == (2, 3)
        assert source.metadata == {"key": "value"}
        with pytest.raises(KeyError):
            source.info("b")


def test_a_file_cannot_name_another_to_be_opened(path: Path) -> None:
    with RawSource(FileBytes(path), "raw", {}, {"tokenizer_path": "/etc/passwd", "key": "value"}) as source:
        assert source.metadata == {"key": "value"}


def test_reads_whole_and_in_pieces(source: RawSource) -> None:
    with source:
        whole, piece, odd = np.empty(6, "<f4"), np.empty(2, "<f4"), np.empty(2, "<f4")
        source.read_into("a", whole)
        source.read_into("a", piece, 3)
        source.read_into("odd", odd)
    np.testing.assert_array_equal(whole, [2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(piece, [5, 6])
    np.testing.assert_array_equal(odd, [0, 1])


def test_views(source: RawSource) -> None:
    with source:
        view = source.view("a")
        assert source.view("odd") is None
    np.testing.assert_array_equal(view, [[2, 3, 4], [5, 6, 7]])


@pytest.mark.parametrize(
    "buffer", [np.empty((2, 3), "<f4"), np.empty(6, "<f8"), np.empty(12, "<f4")[::2], np.frombuffer(bytes(24), "<f4")]
)
def test_a_wrong_buffer(source: RawSource, buffer: np.ndarray) -> None:
    with source, pytest.raises(KernelError, match="a: expected a writable contiguous 1-D buffer of float32"):
        source.read_into("a", buffer)


@pytest.mark.parametrize("start", [-1, 1, 1 << 63])
def test_elements_outside(source: RawSource, start: int) -> None:
    with source, pytest.raises(KernelError, match="a: expected elements within its 6, got 6 from"):
        source.read_into("a", np.empty(6, "<f4"), start)


@pytest.mark.parametrize("offset", [-4, 24, 1 << 63])
def test_a_tensor_outside(path: Path, offset: int) -> None:
    with FileBytes(path) as file, pytest.raises(FormatError, match="a: expected its bytes within the 43 of the file"):
        RawSource(file, "raw", {"a": tensor("a", offset, (5,))}, {})


def test_many_tensors_over_the_same_bytes(path: Path) -> None:
    """As a pickle may claim: each alone is harmless, and reading all of them a job of days."""
    with FileBytes(path) as file:
        RawSource(file, "raw", {str(i): tensor(str(i), 0, (8,)) for i in range(5)}, {})
        with pytest.raises(
            FormatError, match="expected tensors with bytes of their own, got 192 bytes of them in a fil"
        ):
            RawSource(file, "raw", {str(i): tensor(str(i), 0, (8,)) for i in range(6)}, {})


def test_truncation(source: RawSource, path: Path) -> None:
    with source:
        source.check()
        os.truncate(path, 40)
        with pytest.raises(FormatError, match="the file was truncated while it was open"):
            source.check()


# Other strides than those of C order. -----------------------------------------------------------------------------

NUMBERS = np.arange(24, dtype="<f4")


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "misaligned"])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((4, 6), (1, 4)),
        ((6, 4), (4, 1)),
        ((3, 4), (0, 1)),
        ((2, 3, 4), (1, 8, 2)),
        ((12,), (2,)),
        ((5,), (0,)),
        ((), ()),
    ],
)
def test_strides_from_anywhere(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").write_bytes(b"x" * offset + NUMBERS.tobytes())
    info = TensorInfo("a", shape, "f32", "a", "f32", 4)
    expected = np.lib.stride_tricks.as_strided(NUMBERS, shape, [4 * s for s in strides]).reshape(-1)
    with RawSource(FileBytes(tmp_path / "raw"), "raw", {"a": RawTensor(info, offset, strides)}, {}) as source:
        assert source.view("a") is None
        for mapped in (True, False):
            if not mapped:
                monkeypatch.setattr(FileBytes, "view", lambda *_: None)
            for start in range(info.size):
                for count in (0, 1, 3, info.size - start):
                    if start + count <= info.size:
                        buffer = np.full(count, np.nan, "<f4")
                        source.read_into("a", buffer, start)
                        np.testing.assert_array_equal(buffer, expected[start : start + count])


def test_strides_that_leave_the_file(path: Path) -> None:
    info = TensorInfo("a", (4, 3), "f32", "a", "f32", 48)
    with (
        FileBytes(path) as file,
        pytest.raises(FormatError, match="a: expected its bytes within the 43 of the file, got 0"),
    ):
        RawSource(file, "raw", {"a": RawTensor(info, 0, (1, 4))}, {})


def test_few_bytes_for_very_many_elements(path: Path) -> None:
    info = TensorInfo("a", (1 << 20, 1 << 20), "f32", "a", "f32", 4)
    with (
        FileBytes(path) as file,
        pytest.raises(FormatError, match="expected tensors with bytes of their own, got 4398"),
    ):
        RawSource(file, "raw", {"a": RawTensor(info, 0, (0, 0))}, {})
