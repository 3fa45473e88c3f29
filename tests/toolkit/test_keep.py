from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

import rwkv_cy
from checkpoints import random_checkpoint, small_parameters, write_safetensors
from contracts.cases import CONFIGS, every_logits, reference_forward, tokens_for
from rwkv_cy.dtypes import MATRIX_TYPES, PACKED, QUANTIZED_TYPES, STORAGE_TYPES
from rwkv_cy.errors import ConfigError
from rwkv_cy.toolkit.convert import convert, plan_conversion, quantize
from rwkv_cy.toolkit.diff import diff

MATRICES = {name for name, array in small_parameters().items() if array.ndim == 2 and name != "emb.weight"}
ALL_TYPES = (*STORAGE_TYPES, *MATRIX_TYPES)


def types(path: Path, target: Path, **options: object) -> dict[str, str]:
    """Return the types that a plan has."""
    plan = plan_conversion(path, target, **options)  # type: ignore[arg-type]
    return {tensor.name: tensor.dtype for tensor in plan.tensors}


def test_the_last_pattern_that_matches_applies(small: Path, tmp_path: Path) -> None:
    keep = {"blocks.*": "q4", "blocks.0.*": None, "*.ffn.*": "bf16", "head.weight": "keep", "emb.weight": "bfloat16"}
    found = types(small, tmp_path / "m", dtype="q8", keep=keep)
    for name in MATRICES:
        if fnmatchcase(name, "*.ffn.*"):
            expected = "bf16"
        else:
            expected = "f32" if name == "head.weight" or name.startswith("blocks.0.") else "q4"
        assert found.pop(name) == expected, name
    assert found.pop("emb.weight") == "bf16"
    assert set(found.values()) == {"f32"}  # vectors


def test_without_another_type_everything_else_is_kept(small: Path, tmp_path: Path) -> None:
    found = types(small, tmp_path / "m", keep={"head.weight": "q4", "emb.weight": "q4"})
    assert found.pop("head.weight") == "q4"
    assert found.pop("emb.weight") == "f16"  # is not quantized, as with dtype
    assert set(found.values()) == {"f32"}


@pytest.mark.parametrize("pattern", ["nothing", "blocks.0.ln1.*"])
def test_a_pattern_must_match(small: Path, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=f"expected a pattern that matches a matrix.*{pattern}"):
        convert(small, tmp_path / "m", keep={pattern: "f32"})
    with pytest.raises(ConfigError, match="dtype: expected one of"):
        convert(small, tmp_path / "m", keep={"head.weight": "q5"})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a model with every kind of low-rank factor as a model file of each storage type."""
    folder = tmp_path_factory.mktemp("sources")
    config = replace(CONFIGS["rwkv7"], ranks={"w": 64, "a": 32, "v": 16, "g": 7})
    source = write_safetensors(folder / "s", random_checkpoint(config))
    for dtype in ALL_TYPES:
        convert(source, folder / dtype, dtype=dtype)
    return {dtype: folder / dtype for dtype in ALL_TYPES}


@pytest.mark.parametrize("dtype", [None, *ALL_TYPES])
@pytest.mark.parametrize("own", ALL_TYPES)
def test_what_a_source_holds_can_be_kept(sources: dict[str, Path], tmp_path: Path, own: str, dtype: str | None) -> None:
    """The bytes are those of the source, whatever its type and the requested one; and kernels read the mixture."""
    names = ("att.w1", "att.key.weight", "ffn.value.weight", "ln1.weight")
    keep = {f"blocks.*.{name}": "keep" for name in names}
    convert(sources[own], tmp_path / "m.h5", dtype=dtype, keep=keep, requantize=True)
    with rwkv_cy.load(sources[own]) as source, rwkv_cy.load(tmp_path / "m.h5") as model:
        for name in (f"blocks.1.{name}" for name in names):
            expected, found = source.parameters[name], model.parameters[name]
            assert (name, found.dtype, found.transposed) == (name, expected.dtype, expected.transposed)
            np.testing.assert_array_equal(found.array, expected.array)
        assert np.isfinite(model.forward([3, 14, 15])[0]).all()
    assert types(sources[own], tmp_path / "all", dtype=dtype, keep={"*": "keep"}) == types(
        sources[own], tmp_path / "all"
    )


@pytest.mark.parametrize("requested", ALL_TYPES)
@pytest.mark.parametrize("own", ["f32", "q8"])
def test_types_that_low_rank_factors_can_get(
    sources: dict[str, Path], tmp_path: Path, own: str, requested: str
) -> None:
    """Factors of floats get quantized types alone, quantized ones become floats; no pattern is passed over silently."""
    quantized = {**dict.fromkeys(QUANTIZED_TYPES, "q8"), PACKED: "bf16"}
    for dtype in ("keep", "f16"):
        options = {"dtype": None if dtype == "keep" else dtype, "keep": {"*.att.w?": requested}}
        if own == "f32" and requested not in ("f32", *QUANTIZED_TYPES):
            with pytest.raises(ConfigError, match="so do low-rank factors unless they are quantized, which 'keep'"):
                types(sources[own], tmp_path / "m", **options)
        else:
            found = types(sources[own], tmp_path / "m", **options)
            assert found["blocks.0.att.w1"] == found["blocks.1.att.w2"] == quantized.get(requested, requested)


def test_types_of_a_quantized_source(small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "q.h5", dtype="q8")
    with pytest.raises(ConfigError, match=r"already quantized \(1 matrices in q8\)"):
        convert(tmp_path / "q.h5", tmp_path / "m.h5", keep={"head.weight": "q4"})
    forced = plan_conversion(tmp_path / "q.h5", tmp_path / "m.h5", keep={"head.weight": "q4"}, requantize=True)
    assert forced.warnings == (f"{tmp_path / 'q.h5'}: 1 quantized matrices are rounded a second time, to q4",)
    convert(tmp_path / "q.h5", tmp_path / "m.h5", keep={"head.weight": "f32"})
    assert diff(tmp_path / "q.h5", tmp_path / "m.h5").same


@pytest.mark.parametrize("config", ["rwkv4", "rwkv7"])
def test_models_of_many_types_run(tmp_path: Path, config: str) -> None:
    source = write_safetensors(tmp_path / "s", random_checkpoint(CONFIGS[config]))
    keep = {"*.key.weight": "f16", "*.receptance.weight": "q6", "blocks.1.*": "bf16", "head.weight": "f32"}
    convert(source, tmp_path / "m.h5", dtype="q8", keep=keep)
    convert(source, tmp_path / "packed.h5", dtype="q8", keep=keep | {"blocks.1.*": "bf12"})
    with rwkv_cy.load(tmp_path / "m.h5") as model, rwkv_cy.load(tmp_path / "packed.h5") as packed:
        assert {parameter.dtype for parameter in model.parameters.values()} >= {"f16", "q6", "bf16", "q8", "f32"}
        assert "bf12" in {parameter.dtype for parameter in packed.parameters.values()}
        tokens = tokens_for(model, 20)
        expected, _ = reference_forward(model, tokens)
        found, _ = every_logits(model, tokens)
        assert np.abs(found - expected).max() <= 0.04 * np.abs(expected).max()
        np.testing.assert_array_equal(every_logits(packed, tokens)[0], found)


@pytest.mark.parametrize("dtype", ["q8", "q6", "q4"])
def test_the_error_is_that_of_the_file(small: Path, tmp_path: Path, dtype: str) -> None:
    report = quantize(small, tmp_path / "m.h5", dtype, measure=True, keep={"blocks.1.ffn.value.weight": "bf16"})
    assert report.rounding.keys() == MATRICES | {"emb.weight"}
    for tensor in diff(small, tmp_path / "m.h5").tensors:
        found = tensor.difference
        assert found is not None
        measured = report.rounding.get(tensor.name)
        if measured is None:
            assert found.differing == 0
        else:
            assert measured.largest == pytest.approx(found.largest, rel=1e-5)
            exact = (found.squared / found.squares[0]) ** 0.5
            assert measured.relative == pytest.approx(exact, rel=1e-4)
    assert json.loads(json.dumps(report.to_dict()))["total_rounding"]["relative"] > 0


def test_f64_is_measured_once(tmp_path: Path) -> None:
    parameters = {name: array.astype("f8") / 3 for name, array in small_parameters().items()}
    report = quantize(write_safetensors(tmp_path / "s", parameters), tmp_path / "m.h5", measure=True)
    by_name = {tensor.name: tensor.difference for tensor in diff(tmp_path / "s", tmp_path / "m.h5").tensors}
    error, found = report.rounding["head.weight"], by_name["head.weight"]
    assert found is not None
    assert error.squares == pytest.approx(found.squares[0])


def test_nothing_is_measured_unless_requested(small: Path, tmp_path: Path) -> None:
    report = convert(small, tmp_path / "m.h5", dtype="q8")
    assert report.rounding == {}
    assert report.total_rounding is None
