"""Parameters whose arrays are not of their type and shape are refused by name, before kernels read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from checkpoints import random_model
from rwkv_cy.errors import SpecError
from rwkv_cy.kernels.matrix import pack
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.tensors.tensor import Parameter


@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ((1, 1), {}, r"expected matrix_shape None, or \(1, 1\) of the array, got \(32, 32\); give what"),
        ((16, 32), {}, r"expected matrix_shape None, or \(16, 32\) of the array, got \(32, 32\)"),
        ((16, 32), {"transposed": True}, r"expected matrix_shape None, or \(32, 16\) of the array, got \(32, 32\)"),
        ((32,), {}, r"expected matrix_shape None, or \(32,\) of the array, got \(32, 32\)"),
        ((1, 32, 32), {"transposed": True}, "expected rows and columns of a transposed matrix, got an array of shape"),
    ],
)
def test_the_shape_of_a_plain_array_is_its_own(array: tuple[int, ...], change: dict[str, Any], message: str) -> None:
    """A Parameter says its shape itself, so that kernels would read past the end of an array with fewer numbers."""
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    plain = model.parameters[name].array
    LanguageModel(model.config, {**model.parameters, name: Parameter(plain, "f32", (32, 32))})
    LanguageModel(model.config, {**model.parameters, name: Parameter(plain, "f32", (32, 32), transposed=True)})
    wrong = replace(Parameter(np.zeros(array, np.float32), "f32", (32, 32)), **change)
    with pytest.raises(SpecError, match=f"{name}: {message}"):
        LanguageModel(model.config, {**model.parameters, name: wrong})
    short = Parameter(np.zeros(1, np.float32), "f32", (32,))
    with pytest.raises(SpecError, match=r"ln1\.weight: expected matrix_shape None, or \(1,\) of the array, got"):
        LanguageModel(model.config, {**model.parameters, "blocks.0.ln1.weight": short})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"array": np.zeros((1, 1, 544), np.uint8)},
            r"expected an array \(2, 1, 544\) for q8 of shape \(32, 32\), got",
        ),
        (
            {"array": np.zeros(1088, np.uint8)},
            r"expected an array \(2, 1, 544\) for q8 of shape \(32, 32\), got \(1088",
        ),
        ({"array": np.zeros((2, 1, 544), np.int8)}, "expected an array of uint8 for q8, got int8 of shape"),
        ({"matrix_shape": None}, "expected matrix_shape, the rows and columns of a q8 matrix, got None; give what"),
        ({"matrix_shape": (0, 32)}, r"expected matrix_shape, the rows and columns of a q8 matrix, got \(0, 32\)"),
        ({"dtype": "f32"}, r"expected an array of float32 for f32, got uint8 of shape \(2, 1, 544\)"),
        ({"dtype": "bf12"}, "expected a multiple of 64 from"),
    ],
)
def test_an_array_that_is_not_of_its_type(change: dict[str, Any], message: str) -> None:
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    packed = Parameter(pack(model.parameters[name].array, "q8"), "q8", (32, 32))
    LanguageModel(model.config, {**model.parameters, name: packed})
    with pytest.raises(SpecError, match=f"{name}: {message}"):
        LanguageModel(model.config, {**model.parameters, name: replace(packed, **change)})


SHAPES = ([32, 32], np.array([32, 32]), np.array([32, 32], np.uint8), (np.int64(32), 32))


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@pytest.mark.parametrize("dtype", ["q8", "Q8", "f32", "float32"])
def test_other_spellings_of_shape_and_type(shape: Any, dtype: str) -> None:
    """What is equal to a field counts as that field: the model's own Parameter has a tuple of int and our names."""
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    plain = model.parameters[name].array
    ours = {"Q8": "q8", "float32": "f32"}.get(dtype, dtype)
    given = Parameter(pack(plain, "q8") if ours == "q8" else plain, dtype, shape, transposed=np.False_)  # type: ignore[arg-type]
    found = LanguageModel(model.config, {**model.parameters, name: given}).parameters[name]
    assert (found.dtype, found.shape, found.matrix_shape) == (ours, (32, 32), (32, 32))
    assert [type(size) for size in found.shape] == [int, int]
    assert found.transposed is False


@pytest.mark.parametrize("transposed", [0, 1, np.int64(1), np.True_], ids=repr)
def test_zero_and_one_as_whether_it_is_transposed(transposed: Any) -> None:
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    given = Parameter(model.parameters[name].array, "f32", transposed=transposed)
    assert LanguageModel(model.config, {**model.parameters, name: given}).parameters[name].transposed is bool(
        transposed
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"matrix_shape": shape}, r"expected matrix_shape of whole numbers, or None, got .*; give what")
            for shape in ((32.0, 32.0), ("32", "32"), "32,32", 32, np.array(32), np.array([[32, 32]]), (None, 32))
        ),
        ({"matrix_shape": np.array([])}, r"expected matrix_shape, the rows and columns of a q8 matrix, got \(\)"),
        ({"dtype": None}, "dtype: expected one of bf12, .*, got None"),
        ({"dtype": ["q8"]}, r"dtype: expected one of bf12, .*, got \['q8'\]"),
        ({"dtype": np.float32}, "dtype: expected one of bf12, .*, got <class 'numpy.float32'>; did you mean 'f32'"),
        ({"array": [[1.0]]}, "expected a NumPy array, got list; give what the parameters of a model hold"),
        ({"array": None}, "expected a NumPy array, got NoneType"),
        ({"transposed": "yes"}, "expected transposed of True or False, got yes; give what"),
        ({"transposed": 2}, "expected transposed of True or False, got 2"),
        ({"transposed": 1.0}, "expected transposed of True or False, got 1.0"),
        ({"transposed": np.array([1, 2])}, r"expected transposed of True or False, got \[1 2\]"),
        ({"inputs": [[0.0]]}, "expected inputs of None, or a contiguous, writable array, got list; give what"),
        (
            {"inputs": np.zeros((3, 64), np.float32)[:, ::2]},
            "expected inputs of None, or a contiguous, writable array, got one that is not; give",
        ),
    ],
)
def test_a_field_that_is_of_another_kind(change: dict[str, Any], message: str) -> None:
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    packed = Parameter(pack(model.parameters[name].array, "q8"), "q8", (32, 32))
    with pytest.raises(SpecError, match=f"{name}: {message}"):
        LanguageModel(model.config, {**model.parameters, name: replace(packed, **change)})


@pytest.mark.parametrize("value", [[[1.0]], None, "x", np.float32(1)], ids=repr)
def test_what_is_no_array(value: Any) -> None:
    model = random_model(d_model=32)
    name = "blocks.0.att.key.weight"
    with pytest.raises(
        SpecError, match=f"{name}: expected an array of float64, float32 or float16, got {type(value).__name__}"
    ):
        LanguageModel(model.config, {**model.parameters, name: value})
