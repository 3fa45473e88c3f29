"""A source seen through a layout: views stay views, partial reads agree with full ones, transforms are exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import Array, safetensors_bytes
from formats.sources import read_all
from rwkv_cy.errors import FormatError, KernelError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.layouts import source as module
from rwkv_cy.formats.layouts.layout import Part, Recipe
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.layouts.steps import NEGATED_EXPONENTIAL, TRANSPOSED, vector
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo


def opened(folder: Path, tensors: dict[str, Array]) -> ParameterSource:
    path = folder / "model.safetensors"
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    return open_safetensors(path)


def whole(name: str, shape: tuple[int, ...], *operations: object) -> Recipe:
    return Recipe.whole(name, shape, operations)  # type: ignore[arg-type]


NUMBERS = np.arange(-12, 12, dtype="<f4").reshape(4, 6)


def test_it_is_a_source(tmp_path: Path) -> None:
    inner = opened(tmp_path, {"a": NUMBERS})
    with TranslatedSource(inner, {"b": whole("a", (4, 6))}) as source:
        assert isinstance(source, ParameterSource)
        assert (source.path, source.format, source.metadata) == (inner.path, "safetensors", {"format": "pt"})
        assert source.files == inner.files
        assert source.names() == ("b",)
        assert replace(source.info("b"), name="a") == inner.info("a")
        source.check()
        with pytest.raises(KeyError):
            source.info("a")
        np.testing.assert_array_equal(source.view("b"), NUMBERS)


def test_renamed_reshaped_and_cut_tensors_are_mapped(tmp_path: Path) -> None:
    inner = opened(tmp_path, {"a": NUMBERS, "v": NUMBERS[0]})
    base = inner.view("a")
    recipes = {
        "row": Recipe((Part("a", 6, (1, 6), (vector(3, 2).undo,)),), (1, 1, 6)),
        "vector": whole("v", (6,), vector(3, 1).undo),
    }
    with TranslatedSource(inner, recipes) as source:
        row = source.view("row")
        assert row is not None
        assert not row.flags.writeable
        assert base is not None
        assert np.shares_memory(row, base)
        np.testing.assert_array_equal(row, NUMBERS[1].reshape(1, 1, 6))
        assert source.info("row").source_nbytes == 24
        found = read_all(source)
    np.testing.assert_array_equal(found["row"][1], NUMBERS[1].reshape(1, 1, 6))
    np.testing.assert_array_equal(found["vector"][1], NUMBERS[0].reshape(1, 1, 6))


@pytest.mark.parametrize("aligned", [True, False])
def test_transposed_from_anywhere(tmp_path: Path, aligned: bool) -> None:
    tensors = {"a": NUMBERS} if aligned else {"x": np.zeros(1, "<f2"), "a": NUMBERS}
    with TranslatedSource(opened(tmp_path, tensors), {"t": whole("a", (4, 6), TRANSPOSED.undo)}) as source:
        assert source.info("t").shape == (6, 4)
        assert source.view("t") is None
        for start in range(24):
            for count in (0, 1, 2, 5, 24):
                if start + count <= 24:
                    buffer = np.full(count, np.nan, "<f4")
                    source.read_into("t", buffer, start)
                    np.testing.assert_array_equal(buffer, NUMBERS.T.reshape(-1)[start : start + count])


@pytest.mark.parametrize("aligned", [True, False])
def test_what_is_stored_transposed_already(tmp_path: Path, aligned: bool) -> None:
    (tmp_path / "raw").write_bytes(b"x" * (not aligned) + NUMBERS.tobytes())
    info = TensorInfo("a", (6, 4), "f32", "a", "f32", NUMBERS.nbytes, transposed=True)
    inner = RawSource(FileBytes(tmp_path / "raw"), "raw", {"a": RawTensor(info, int(not aligned))}, {})
    with TranslatedSource(inner, {"t": whole("a", (6, 4), TRANSPOSED.apply), "b": whole("a", (6, 4))}) as source:
        assert (source.info("t").shape, source.info("t").transposed) == ((4, 6), False)
        assert (source.info("b").shape, source.info("b").transposed) == ((6, 4), True)
        for name in "tb":
            buffer = np.empty(24, "<f4")
            source.read_into(name, buffer)
            np.testing.assert_array_equal(buffer, NUMBERS.reshape(-1))


def test_fused_from_anywhere(tmp_path: Path) -> None:
    rows = {f"r{i}": NUMBERS[i] for i in range(4)}
    fused = Recipe(tuple(Part(name, 0, (6,), (vector(1, 2).apply,)) for name in rows), (4, 6))
    with TranslatedSource(opened(tmp_path, rows), {"a": fused}) as source:
        assert source.view("a") is None
        assert source.info("a").source_nbytes == NUMBERS.nbytes
        for start in range(24):
            for count in (1, 7, 24):
                if start + count <= 24:
                    buffer = np.full(count, np.nan, "<f4")
                    source.read_into("a", buffer, start)
                    np.testing.assert_array_equal(buffer, NUMBERS.reshape(-1)[start : start + count])


def test_fused_tensors_of_several_types_take_one_that_holds_them_all(tmp_path: Path) -> None:
    rows = {"a": np.array([1.5], "<f2"), "b": np.array([0x3F80], "<u2")}
    fused = Recipe((Part("a", 0, (1,)), Part("b", 0, (1,))), (2,))
    with TranslatedSource(opened(tmp_path, rows), {"x": fused}) as source:
        assert source.info("x").dtype == "f32"
        buffer = np.empty(2, "<f4")
        source.read_into("x", buffer)
    np.testing.assert_array_equal(buffer, [1.5, 1.0])


@pytest.mark.parametrize(("stored", "dtype"), [("<f8", "f64"), ("<f4", "f32"), ("<f2", "f32"), ("<u2", "f32")])
def test_computed_numbers_are_float32_at_least(tmp_path: Path, stored: str, dtype: str) -> None:
    numbers = np.array([0xBF80, 0xC000] if stored == "<u2" else [-1.0, -2.0], stored)
    recipe = whole("w", (2,), NEGATED_EXPONENTIAL.undo)
    with TranslatedSource(opened(tmp_path, {"w": numbers}), {"w": recipe}) as source:
        assert source.info("w").dtype == dtype
        assert source.view("w") is None
        buffer = np.empty(2, "<f8" if dtype == "f64" else "<f4")
        source.read_into("w", buffer)
        np.testing.assert_array_equal(buffer, np.log([1.0, 2.0]).astype(buffer.dtype))
        source.read_into("w", buffer[:1], 1)
        assert buffer[0] == buffer[1]


def test_computed_and_transposed(tmp_path: Path) -> None:
    numbers = -np.exp(NUMBERS / 8)
    recipe = whole("w", (4, 6), TRANSPOSED.undo, NEGATED_EXPONENTIAL.undo)
    with TranslatedSource(opened(tmp_path, {"w": numbers}), {"w": recipe}) as source:
        buffer = np.empty(9, "<f4")
        source.read_into("w", buffer, 3)
    np.testing.assert_allclose(buffer, NUMBERS.T.reshape(-1)[3:12] / 8, rtol=0, atol=1e-6)


def test_numbers_that_the_layout_cannot_hold(tmp_path: Path) -> None:
    recipe = whole("w", (2,), NEGATED_EXPONENTIAL.undo)
    with TranslatedSource(opened(tmp_path, {"w": np.array([-1.0, 1.0], "<f4")}), {"decay": recipe}) as source:
        with pytest.raises(FormatError, match=r"model\.safetensors: w: expected -exp\(time_decay\), which is below 0"):
            source.read_into("decay", np.empty(2, "<f4"))
        source.read_into("decay", np.empty(1, "<f4"))


def test_no_tensor_too_large_to_be_transposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REORDERED", 23)
    with opened(tmp_path, {"a": NUMBERS}) as inner:
        TranslatedSource(inner, {"b": whole("a", (4, 6))})
        with pytest.raises(FormatError, match=r"t: expected a low-rank factor of at most 23 elements, got 24; this is"):
            TranslatedSource(inner, {"t": whole("a", (4, 6), TRANSPOSED.undo)})


def test_a_request_must_fit_the_tensor(tmp_path: Path) -> None:
    recipes = {"t": whole("a", (4, 6), TRANSPOSED.undo), "b": whole("a", (4, 6))}
    with TranslatedSource(opened(tmp_path, {"a": NUMBERS}), recipes) as source:
        for name in recipes:
            with pytest.raises(KernelError, match=rf"{name}: expected elements within its 24, got 2 from 23"):
                source.read_into(name, np.empty(2, "<f4"), 23)
            with pytest.raises(KernelError, match=rf"{name}: expected a writable contiguous 1-D buffer of float32"):
                source.read_into(name, np.empty(2, "<f8"))


def test_misaligned_tensors_have_no_view(tmp_path: Path) -> None:
    tensors = {"x": np.zeros(1, "<f2"), "a": NUMBERS}
    with TranslatedSource(opened(tmp_path, tensors), {"b": whole("a", (4, 6))}) as source:
        assert source.view("b") is None
