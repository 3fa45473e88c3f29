"""The policy of storage types: the result for each kind of parameter, the same in ``load`` and ``convert``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, small_parameters, write_safetensors
from contracts.cases import dense
from formats import foreign
from rwkv7_shapes import SMALL
from rwkv_cy import load
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.dtypes import MATRIX_TYPES, QUANTIZED_TYPES, STORAGE_TYPES, to_storage
from rwkv_cy.kernels.matrix import pack
from rwkv_cy.tensors.codecs import CODECS
from rwkv_cy.tensors.policy import choose, choose_all, may_be_stored_as, may_be_transposed
from rwkv_cy.toolkit.convert import convert

TOKENS = [3, 14, 15, 52, 59, 35]


def write_source(path: Path, own: str) -> Path:
    if own == "q5_1":
        path.write_bytes(foreign.rwkvcpp_bytes(small_parameters(), own))
        return path
    return write_safetensors(path, {name: to_storage(a, "f32", own) for name, a in small_parameters().items()})


#: load refuses to quantize what another program quantized, and has no option to force it.
PAIRS = [
    (own, dtype)
    for own in (*STORAGE_TYPES, "q5_1")
    for dtype in (None, *STORAGE_TYPES, *MATRIX_TYPES)
    if own in STORAGE_TYPES or dtype not in QUANTIZED_TYPES
]


@pytest.mark.parametrize(("own", "dtype"), PAIRS)
def test_load_and_convert_give_the_same_model(tmp_path: Path, own: str, dtype: str | None) -> None:
    source = write_source(tmp_path / "s", own)
    convert(source, tmp_path / "m.h5", dtype=dtype)
    converted, loaded = load(tmp_path / "m.h5"), load(source, dtype=dtype)
    assert loaded.config == converted.config
    assert {n: p.dtype for n, p in loaded.parameters.items()} == {n: p.dtype for n, p in converted.parameters.items()}
    logits, state = loaded.forward(TOKENS, all_logits=True)
    expected, expected_state = converted.forward(TOKENS, all_logits=True)
    assert logits.tobytes() == expected.tobytes()
    assert state == expected_state


@pytest.mark.parametrize("dtype", [None, "f64", "f16", "bf12"])
@pytest.mark.parametrize("shape", ["heads of 64", "odd ranks"])
def test_low_rank_factors_are_stored_as_kernels_read_them(tmp_path: Path, shape: str, dtype: str | None) -> None:
    config = SMALL[shape]
    parameters = random_checkpoint(config)
    source = write_safetensors(tmp_path / "s", parameters)
    convert(source, tmp_path / "m.h5", dtype=dtype)
    converted, loaded = load(tmp_path / "m.h5"), load(source, dtype=dtype)
    for name in ("blocks.0.att.w1", "blocks.0.att.g2"):
        for model in (converted, loaded):
            parameter = model.parameters[name]
            assert (parameter.dtype, parameter.transposed) == ("f32", True)
            assert parameter.shape == parameters[name].shape
            np.testing.assert_array_equal(parameter.array.T, parameters[name])
    # Mapped from a model file, copied from a foreign one.
    assert not converted.parameters["blocks.0.att.w1"].array.flags.writeable
    assert loaded.parameters["blocks.0.att.w1"].array.flags.writeable
    assert converted.fingerprint == loaded.fingerprint
    logits, state = loaded.forward(TOKENS, all_logits=True)
    expected, expected_state = converted.forward(TOKENS, all_logits=True)
    assert logits.tobytes() == expected.tobytes()
    assert state == expected_state


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_low_rank_factors_of_quantized_models(tmp_path: Path, dtype: str) -> None:
    """They are in q8, blocks of the rows of their transpose, where that takes fewer bytes than they had."""
    config = replace(SMALL["heads of 64"], ranks={"w": 64, "a": 32, "v": 16, "g": 7})
    parameters = random_checkpoint(config)
    source = write_safetensors(tmp_path / "s", parameters)
    convert(source, tmp_path / "m.h5", dtype=dtype)
    converted, loaded = load(tmp_path / "m.h5"), load(source, dtype=dtype)
    names = {"w1": "q8", "w2": "q8", "a1": "q8", "a2": "q8", "v1": "q8", "v2": "q8", "g1": "q8", "g2": "f32"}
    for model in (converted, loaded):
        for name, expected in names.items():
            parameter = model.parameters[f"blocks.1.att.{name}"]
            canonical = parameters[f"blocks.1.att.{name}"]
            assert (name, parameter.dtype, parameter.transposed) == (name, expected, True)
            assert parameter.shape == canonical.shape
            if expected == "q8":
                np.testing.assert_array_equal(parameter.array, pack(np.ascontiguousarray(canonical.T), "q8"))
    # Mapped from a model file, encoded in memory from a foreign one.
    assert not converted.parameters["blocks.0.att.w1"].array.flags.writeable
    assert loaded.parameters["blocks.0.att.w1"].array.flags.writeable


def test_factors_of_a_quantized_model_return_to_floats(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "s", random_checkpoint(SMALL["heads of 64"]))
    convert(source, tmp_path / "q.h5", dtype="q8")
    quantized = load(tmp_path / "q.h5")
    name = "blocks.0.att.w1"
    numbers = dense(quantized.parameters[name])
    for dtype, expected in (("f64", "f64"), ("f32", "f32"), ("bf16", "bf16"), ("bf12", "bf16")):
        convert(tmp_path / "q.h5", tmp_path / "m.h5", dtype=dtype, overwrite=True)
        for model in (load(tmp_path / "m.h5"), load(tmp_path / "q.h5", dtype=dtype)):
            parameter = model.parameters[name]
            assert (parameter.dtype, parameter.transposed) == (expected, True)
            precision = 0.0 if expected in ("f64", "f32") else 2**-8
            np.testing.assert_allclose(dense(parameter), numbers, rtol=precision)
    for dtype in (None, "q4"):
        convert(tmp_path / "q.h5", tmp_path / "m.h5", dtype=dtype, overwrite=True, requantize=True)
        parameter = load(tmp_path / "m.h5").parameters[name]
        np.testing.assert_array_equal(parameter.array, quantized.parameters[name].array)


def test_a_pattern_keeps_a_factor_as_it_is(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "s", random_checkpoint(SMALL["heads of 64"]))
    convert(source, tmp_path / "m.h5", dtype="q4", keep={"*.att.w?": "keep", "blocks.1.*": "bf16"})
    types = {name: parameter.dtype for name, parameter in load(tmp_path / "m.h5").parameters.items()}
    assert {types["blocks.0.att.w1"], types["blocks.0.att.w2"], types["blocks.1.att.a1"]} == {"f32"}
    assert types["blocks.0.att.a1"] == "q8"


def test_optional_parameters_may_be_missing(tmp_path: Path) -> None:
    whole, required = random_checkpoint(SMALL["one head"]), random_checkpoint(SMALL["one head"], optional=False)
    assert len(required) < len(whole)
    for parameters in (whole, required):
        source = write_safetensors(tmp_path / "s", parameters)
        convert(source, tmp_path / "m.h5", dtype="q8", overwrite=True)
        for model in (load(tmp_path / "m.h5"), load(tmp_path / "m.h5", mmap=False), load(source)):
            assert model.parameters.keys() == parameters.keys()


@dataclass
class Spec:
    """A parameter of an architecture that does not exist."""

    name: str
    kind: str
    converted: bool = False
    quantizable: bool = False
    stored_transposed: bool = False


EMBEDDING = Spec("emb", "embedding", converted=True)
MATRIX = Spec("matrix", "matrix", converted=True, quantizable=True)
SPARSE = Spec("sparse", "matrix", converted=True, quantizable=True, stored_transposed=True)
FACTOR = Spec("w1", "low_rank", stored_transposed=True)
OTHER_FACTOR = Spec("w2", "low_rank")
VECTOR = Spec("vector", "vector")
MISSING = Spec("missing", "vector")
SHAPES: dict[str, tuple[int, ...]] = {
    "emb": (64, 128),
    "matrix": (64, 128),
    "sparse": (64, 128),
    "w1": (128, 16),
    "w2": (16, 128),
    "vector": (128,),
}
SHAPES["vector"] = (128,)
SPECS = (EMBEDDING, MATRIX, SPARSE, FACTOR, OTHER_FACTOR, VECTOR, MISSING)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write_safetensors(
        tmp_path / "s", {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    )


@pytest.mark.parametrize("dtype", CODECS)
def test_kinds(source: Path, dtype: str) -> None:
    """Types of matrices go to matrices alone, and of them only factors and plain numbers are transposed."""
    with open_source(source) as opened:
        found = {name: target.info for name, target in choose_all(opened, SPECS, dtype).items()}
    plain = {"bf12": "bf16", **dict.fromkeys(QUANTIZED_TYPES, "f16")}.get(dtype, dtype)
    sparse = "bf16" if dtype == "bf12" else dtype
    assert {name: info.dtype for name, info in found.items()} == {
        "emb": plain,
        "matrix": dtype,
        "sparse": sparse,
        "w1": "q8" if dtype in QUANTIZED_TYPES else "f32",
        "w2": "f32",  # the architecture does not say that it is multiplied by its columns
        "vector": "f32",
    }
    transposed = {name for name, info in found.items() if info.transposed}
    assert transposed == ({"w1"} if dtype in QUANTIZED_TYPES else {"w1", "sparse"})
    assert found["w1"].array_shape == ((1, 4, 544) if dtype in QUANTIZED_TYPES else (16, 128))


def test_orientation_may_be_kept_where_the_type_is(source: Path) -> None:
    with open_source(source) as opened:
        for dtype in (None, "f32"):
            assert choose(opened, SPARSE, dtype, keep_orientation=True).info == opened.info("sparse")
            assert choose(opened, FACTOR, dtype, keep_orientation=True).info.transposed
        assert choose(opened, SPARSE, "f16", keep_orientation=True).info.transposed


def test_what_is_multiplied_may_be_transposed() -> None:
    assert [spec.name for spec in SPECS if may_be_transposed(spec)] == ["matrix", "sparse", "w1", "w2"]


def test_what_kernels_take() -> None:
    takes = {
        (spec.name, dtype, transposed)
        for spec in (EMBEDDING, MATRIX, FACTOR, VECTOR)
        for dtype in ("f16", "bf12", "q8", "q4")
        for transposed in (False, True)
        if may_be_stored_as(spec, dtype, transposed=transposed)
    }
    assert takes == {
        ("emb", "f16", False),
        ("matrix", "f16", False),
        ("matrix", "f16", True),
        ("matrix", "bf12", False),
        ("matrix", "q8", False),
        ("matrix", "q4", False),
        ("w1", "f16", False),
        ("w1", "f16", True),
        ("w1", "q8", True),
        ("w1", "q4", True),
        ("vector", "f16", False),
    }
