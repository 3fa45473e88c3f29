from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rwkv_cy
from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.dtypes import f32_to_bf16, to_storage, widen
from rwkv_cy.errors import ConfigError, SpecError, StorageError
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.merge import merge, plan_merge
from rwkv_cy.training.tensor_file import write_tensors
from toolkit.adapters import CASES, FFN_VALUE, KEY, Case, draw

Array = npt.NDArray[Any]
BASE = random_checkpoint(CONFIGS["rwkv7"], optional=False)


def read(path: Path) -> dict[str, tuple[str, Array]]:
    """Return type and float64 numbers of every tensor of a file."""
    found = {}
    with PlainSource(open_source(path)) as source:
        for name in source.names():
            info = source.info(name)
            block = np.empty(info.size, info.codec.array_dtype)
            source.read_into(name, block)
            found[name] = info.dtype, widen(block, info.dtype, "f64").reshape(info.shape)
    return found


def write_base(path: Path, dtype: str = "f32", form: str = "safetensors") -> Path:
    """Write the base in a type and a form."""
    arrays = BASE if dtype == "f32" else {name: f32_to_bf16(array) for name, array in BASE.items()}
    source = write_safetensors(path.with_suffix(".safetensors"), arrays)
    if form == "safetensors":
        return source
    convert(source, path.with_suffix(".h5"))
    return path.with_suffix(".h5")


def merge_case(case: Case, base: Path, target: Path, **options: Any) -> rwkv_cy.toolkit.merge.MergeReport:
    """Write the adapter's files beside the target, and merge."""
    init = None
    if case.initial is not None:
        init = write_safetensors(target.with_name("init"), case.initial)
    adapter = write_safetensors(target.with_name("adapter"), case.adapter)
    return merge(base, adapter, target, **{"init": init, **case.options, **options})


def assert_merged(found: Mapping[str, tuple[str, Array]], before: Mapping[str, tuple[str, Array]], case: Case) -> None:
    """Compare every tensor with the base, or with the formula, rounded once."""
    expected = case.merged({name: array for name, (_, array) in before.items()})
    assert found.keys() == before.keys() | expected.keys()
    for name, (dtype, array) in found.items():
        numbers = np.asarray(expected.get(name, before.get(name, (dtype, array))[1]), "f8")
        rounded = widen(to_storage(numbers, "f64", dtype), dtype, "f64")
        np.testing.assert_array_equal(array, rounded, err_msg=name)


def test_it_is_a_function_of_the_package() -> None:
    assert rwkv_cy.merge is merge


@pytest.mark.parametrize("form", ["safetensors", "hdf5"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_merged_values(tmp_path: Path, name: str, dtype: str, form: str) -> None:
    base = write_base(tmp_path / "base", dtype, form)
    case = CASES[name]
    report = merge_case(case, base, tmp_path / "m.h5")
    before, found = read(base), read(tmp_path / "m.h5")
    assert_merged(found, before, case)
    changed = case.merged({name: array for name, (_, array) in before.items()})
    assert report.plan.changes.keys() == changed.keys()
    # Matrices keep the type of the base, and what replaces a vector its own.
    whole = {name for name, kind in report.plan.changes.items() if kind == "whole tensor"}
    if "weight" not in case.options:
        assert {found[name][0] for name in whole} <= {"f32"}
    assert {kind for name, (kind, _) in found.items() if name not in whole} == {dtype}


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "bf12"])
def test_the_sum_is_rounded_once(tmp_path: Path, dtype: str) -> None:
    base = write_base(tmp_path / "base")
    case = CASES["LoRA"]
    merge_case(case, base, tmp_path / "m.h5", dtype=dtype)
    found = read(tmp_path / "m.h5")
    assert_merged(found, read(base), case)
    assert found[f"{KEY}.weight"][0] == {"bf12": "bf16"}.get(dtype, dtype)


def test_merging_into_a_quantized_type_quantizes_the_sum(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    case = CASES["DiSHA bone"]
    merge_case(case, base, tmp_path / "m.h5", dtype="f32")
    convert(tmp_path / "m.h5", tmp_path / "expected.h5", dtype="q8")
    merge_case(case, base, tmp_path / "q.h5", dtype="q8")
    with open_source(tmp_path / "expected.h5") as one, open_source(tmp_path / "q.h5") as other:
        assert one.checksums == other.checksums  # type: ignore[attr-defined]


def test_a_quantized_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    convert(base, tmp_path / "q.h5", dtype="q8")
    case = CASES["LoRA"]
    with pytest.raises(ConfigError, match="already quantized"):
        merge_case(case, tmp_path / "q.h5", tmp_path / "m.h5", dtype="q4")
    merge_case(case, tmp_path / "q.h5", tmp_path / "m.h5")
    found, before = read(tmp_path / "m.h5"), read(tmp_path / "q.h5")
    assert_merged(found, before, case)
    assert found[f"{KEY}.weight"][0] == "f16"
    with open_source(tmp_path / "m.h5") as source:
        assert source.info("blocks.0.att.key.weight").dtype == "q8"  # has no change


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_low_rank_factors_of_a_quantized_base(tmp_path: Path, weight: float) -> None:
    """A share of a factor in q8 is f32: it was no matrix of the requested type before, and is none now."""
    name = "blocks.1.att.w1"
    convert(write_base(tmp_path / "base"), tmp_path / "q.h5", dtype="q8")
    trained = draw(*BASE[name].shape)
    write_safetensors(tmp_path / "adapter", {name: trained, "blocks.1.ln1.weight": draw(128)})
    merge(tmp_path / "q.h5", tmp_path / "adapter", tmp_path / "m.h5", weight=weight)
    with open_source(tmp_path / "m.h5") as source:
        assert (source.info(name).dtype, source.info(name).transposed) == ("f32", True)
        assert source.info("blocks.1.att.a1").dtype == "q8"  # has no change
        assert source.info("blocks.1.ln1.weight").dtype == "f32"
    before = read(tmp_path / "q.h5")[name][1]
    expected = (before + weight * (trained - before)).astype("f4")
    np.testing.assert_array_equal(read(tmp_path / "m.h5")[name][1], expected)
    merge(tmp_path / "q.h5", tmp_path / "adapter", tmp_path / "q8.h5", weight=weight, dtype="q8", requantize=True)
    with open_source(tmp_path / "q8.h5") as source:
        assert source.info(name).dtype == "q8"


def test_long_rows_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "base")
    for size in (100, 1000):  # below and above the rows' length
        monkeypatch.setattr("rwkv_cy.toolkit.merged_source.BLOCK_SIZE", size)
        for name, case in CASES.items():
            merge_case(case, base, tmp_path / f"{name}-{size}.h5")
            assert_merged(read(tmp_path / f"{name}-{size}.h5"), read(base), case)


def test_the_model_file_says_where_it_comes_from(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", form="hdf5")
    report = merge_case(CASES["LoRA"], base, tmp_path / "m.h5")
    with Checkpoint.open(tmp_path / "m.h5") as merged, Checkpoint.open(base) as original:
        assert merged.header is not None
        assert merged.header.source.items() >= {"name": "base.h5", "adapter": "adapter", "alpha": "16"}.items()
        assert merged.fingerprint != original.fingerprint
        assert merged.config == original.config
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.plan.counts == {"LoRA": 3, "whole tensor": 3}


def test_the_config_and_tokenizer_of_the_base(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    small = random_checkpoint(CONFIGS["rwkv4"])
    write_safetensors(folder / "model.safetensors", small)
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", "layer_norm_epsilon": 1e-3}))
    adapter = write_safetensors(tmp_path / "adapter", {"ln_out.bias": np.ones(128, "f4")})
    merge(folder, adapter, tmp_path / "m.h5")
    with Checkpoint.open(tmp_path / "m.h5") as merged:
        assert merged.config.layer_norm_eps == 1e-3


def test_a_state_file_beside_the_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    case = CASES["DiSHA bone"]
    name = "blocks.1.att.time_state"
    state = write_safetensors(tmp_path / "state", {name: draw(2, 64, 64)})
    report = merge_case(case, base, tmp_path / "m.h5", state=state)
    both = Case(case.adapter, lambda w: {**case.merged(w), name: draw(2, 64, 64)})
    assert_merged(read(tmp_path / "m.h5"), read(base), both)
    assert report.plan.changes[name] == "whole tensor"
    merge(base, state, tmp_path / "alone.h5")
    assert_merged(read(tmp_path / "alone.h5"), read(base), Case({}, lambda w: {name: draw(2, 64, 64)}))
    wrong = write_safetensors(tmp_path / "wrong", {"ln_out.bias": draw(128)})
    with pytest.raises(SpecError, match="ln_out.bias .*: expected states of the model"):
        merge_case(case, base, tmp_path / "n.h5", state=wrong)


@pytest.mark.parametrize("names", ["base_model.model.{}.weight", "model.{}.default.weight", "{}"])
def test_names_of_wrappers(tmp_path: Path, names: str) -> None:
    base = write_base(tmp_path / "base")
    case = CASES["LoRA"]
    factors = {name: array for name, array in case.adapter.items() if ".lora_" in name}
    renamed = {names.format(name): array for name, array in factors.items()}
    report = merge(base, write_safetensors(tmp_path / "adapter", renamed), tmp_path / "m.h5", alpha=16)
    assert report.plan.counts == {"LoRA": 3}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_safetensors(tmp_path / "adapter", CASES["LoRA"].adapter)
    plan = plan_merge(base, adapter, tmp_path / "m.h5", alpha=16)
    assert plan.counts == {"LoRA": 3, "whole tensor": 3}
    assert not (tmp_path / "m.h5").exists()
    json.dumps(plan.to_dict(), allow_nan=False)


A, B = draw(4, 128), draw(128, 4)
BAD = {
    "nowhere": ({"blocks.9.ln1.weight": draw(128)}, {}, r"blocks.9.ln1.weight \(128,\): fits no parameter"),
    "no matrix": ({"blocks.0.att.w0.lora_A": A}, {"alpha": 1}, r"w0.lora_A \(4, 128\): fits no matrix"),
    "low rank": ({"blocks.0.att.w1.disha": A}, {}, "w1.disha .* fits no matrix"),
    "shape": ({"ln_out.bias": draw(127)}, {}, r"ln_out.bias: expected shape \(128,\), got \(127,\)"),
    "lora shape": ({f"{KEY}.lora_A": A.T, f"{KEY}.lora_B": B}, {"alpha": 1}, "do not fit blocks.1.att.key.weight"),
    "lora rows": ({f"{KEY}.lora_A": A, f"{KEY}.lora_B": draw(64, 4)}, {"alpha": 1}, "do not fit"),
    "lora of no axes": ({f"{KEY}.lora_A": A, f"{KEY}.lora_B": np.float32(1)}, {"alpha": 1}, "do not fit"),
    "lora of three axes": ({f"{KEY}.lora_A": A[None], f"{KEY}.lora_B": B}, {"alpha": 1}, "do not fit"),
    "disha of no axes": ({f"{KEY}.disha": np.float32(1)}, {}, "does not fit"),
    "disha of more than the inputs": ({f"{KEY}.disha": draw(129, 128)}, {}, "does not fit"),
    "bone of odd blocks": ({f"{KEY}.bone": draw(128, 3)}, {}, "does not fit"),
    "half": ({f"{KEY}.lora_A": A}, {"alpha": 1}, "blocks.1.att.key.weight: factor B missing"),
    "twice": ({f"{KEY}.lora_A": A, f"{KEY}.weight.lora.0": A}, {"alpha": 1}, "both are factor A of"),
    "two ways": (
        {f"{KEY}.disha": draw(32, 128), f"{KEY}.weight": draw(128, 128)},
        {},
        "blocks.1.att.key.disha, blocks.1.att.key.weight: change blocks.1.att.key.weight in two ways",
    ),
    "square rank": (
        {f"{KEY}.weight.lora.0": draw(128, 128), f"{KEY}.weight.lora.1": draw(128, 128)},
        {"alpha": 1},
        "ambiguous, since its rank is its number of inputs",
    ),
    "disha": ({f"{KEY}.disha": draw(3, 32, 32)}, {}, r"disha \(3, 32, 32\): does not fit"),
    "disha by rows": ({f"{FFN_VALUE}.disha": draw(4, 32, 32)}, {}, r"disha \(4, 32, 32\): does not fit"),
    "bone": ({f"{KEY}.bone": draw(4, 32, 32)}, {}, r"bone \(4, 32, 32\): ambiguous .* choose with bone_blocks="),
    "bone of all rows": ({f"{KEY}.bone": draw(128, 128)}, {}, "ambiguous"),
    "initial": ({f"{KEY}.init_lora_A": A}, {}, "fits no matrix"),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_that_fit_nowhere_or_twice_are_named(tmp_path: Path, case: str) -> None:
    tensors, options, message = BAD[case]
    adapter = write_safetensors(tmp_path / "adapter", tensors)
    with pytest.raises(SpecError, match=message) as error:
        merge(write_base(tmp_path / "base"), adapter, tmp_path / "m.h5", **options)
    assert str(error.value).startswith(f"{adapter}: ")
    assert not (tmp_path / "m.h5").exists()


@pytest.mark.parametrize(
    ("version", "shown"), [("rwkv6", "RWKV-6"), ("rwkv5.2", "RWKV-5.2"), ("rwkv99", "'rwkv99'"), ("", "''")]
)
@pytest.mark.parametrize("file", ["adapter", "init", "state"])
def test_an_adapter_that_was_trained_on_another_version(tmp_path: Path, file: str, version: str, shown: str) -> None:
    base = write_base(tmp_path / "base")
    tensors = {
        "adapter": {f"{KEY}.lora_A": A, f"{KEY}.lora_B": B},
        "init": INITIAL,
        "state": {"blocks.1.att.time_state": draw(2, 64, 64)},
    }
    files = {name: tmp_path / f"{name}.safetensors" for name in tensors}
    for name, arrays in tensors.items():
        write_tensors(files[name], arrays, metadata={"rwkv_cy_architecture": version if name == file else "rwkv7"})
    with pytest.raises(SpecError) as error:
        merge(base, target=tmp_path / "m.h5", **files)
    assert str(error.value) == (
        f"{files[file]}: expected an adapter of this model's version, RWKV-7, got one that was trained on {shown}; "
        "name the model that it was trained on"
    )
    write_tensors(files[file], tensors[file], metadata={"rwkv_cy_architecture": "rwkv7"}, overwrite=True)
    merge(base, target=tmp_path / "m.h5", **files)


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    adapter = write_safetensors(tmp_path / "adapter", {f"x.{i}": draw(2) for i in range(30)})
    with pytest.raises(SpecError, match=r"x\.0 .*x\.19 .*; and 10 more; expected an adapter of this model's version"):
        merge(write_base(tmp_path / "base"), adapter, tmp_path / "m.h5")


INITIAL = {f"model.{KEY}.init_lora_A": A, f"model.{KEY}.init_lora_B": B}


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({f"model.{KEY}.init_lora_A": A}, "initial factor B missing"),
        (INITIAL | {f"model.{FFN_VALUE}.init_lora_A": draw(4, 512)}, "initial factors without trained ones"),
        ({f"{FFN_VALUE}.init_lora_A": draw(4, 512)}, "initial factor A and B missing"),
        (INITIAL | {"model.ln_out.bias": draw(128)}, "ln_out.bias .*: expected factors init_lora_A and init_lora_B"),
        ({f"{KEY}.lora_A": A, f"{KEY}.lora_B": B}, "lora_A .*: expected factors init_lora_A"),
    ],
)
def test_initial_factors_must_fit(tmp_path: Path, initial: dict[str, Array], message: str) -> None:
    adapter = write_safetensors(tmp_path / "adapter", {f"{KEY}.lora_A": A, f"{KEY}.lora_B": B})
    init = write_safetensors(tmp_path / "init", initial)
    with pytest.raises(SpecError, match=message):
        merge(write_base(tmp_path / "base"), adapter, tmp_path / "m.h5", init=init)


def test_alpha_is_given_where_it_is_needed_and_nowhere_else(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    lora = write_safetensors(tmp_path / "lora", {f"{KEY}.lora_A": A, f"{KEY}.lora_B": B})
    vector = write_safetensors(tmp_path / "vector", {"ln_out.bias": draw(128)})
    init = write_safetensors(tmp_path / "init", INITIAL)
    for adapter, options, message in (
        (lora, {}, "expected the lora_alpha of the training"),
        (vector, {"alpha": 16}, "the adapter has no LoRA factors"),
        (lora, {"alpha": 16, "init": init}, "PiSSA is not scaled"),
        (lora, {"alpha": float("nan")}, "alpha: expected a finite number"),
        (vector, {"weight": float("inf")}, "weight: expected a finite number"),
        (vector, {"bone_blocks": "both"}, "bone_blocks: expected 'rows' or 'columns'"),
    ):
        with pytest.raises(ConfigError, match=message):
            merge(base, adapter, tmp_path / "m.h5", **options)  # type: ignore[arg-type]


def test_a_whole_model_in_place_of_an_adapter_is_warned_of(tmp_path: Path) -> None:
    """Programs of that name mix two models; here nothing would be left of the base."""
    base, other = write_base(tmp_path / "base"), write_base(tmp_path / "other")
    part = write_safetensors(tmp_path / "part", {f"{KEY}.weight": draw(128, 128)})
    expected = f"{other}: a whole model, every tensor of which replaces that of the base"
    report = merge(base, other, tmp_path / "m.h5")
    assert report.conversion.warnings[-1].startswith(expected)
    assert plan_merge(base, other, tmp_path / "n.h5").conversion.warnings == report.plan.conversion.warnings
    for adapter, weight in ((other, 0.5), (part, 1.0)):
        warnings = merge(base, adapter, tmp_path / "n.h5", weight=weight, overwrite=True).conversion.warnings
        assert not any("a whole model" in warning for warning in warnings)


def test_targets_are_protected(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_safetensors(tmp_path / "adapter", {"ln_out.bias": draw(128)})
    for target in (base, adapter):
        with pytest.raises(StorageError):
            merge(base, adapter, target, overwrite=True)
    merge(base, adapter, tmp_path / "m.h5")
    with pytest.raises(StorageError, match="already exists"):
        merge(base, adapter, tmp_path / "m.h5")
    merge(base, adapter, tmp_path / "m.h5", overwrite=True)


@pytest.mark.parametrize(("factor", "alpha"), [(np.nan, 1), (np.inf, 1), (3e38, 1e300)])
@pytest.mark.filterwarnings("error")
def test_numbers_that_are_not_finite_are_counted(tmp_path: Path, factor: float, alpha: float) -> None:
    tensors = {f"{KEY}.lora_A": np.ones((2, 128), "f4"), f"{KEY}.lora_B": np.full((128, 2), factor, "f4")}
    adapter = write_safetensors(tmp_path / "adapter", tensors)
    report = merge(write_base(tmp_path / "base"), adapter, tmp_path / "m.h5", alpha=alpha)
    assert report.conversion.nonfinite.keys() == {f"{KEY}.weight"}
    assert any(f"{KEY}.weight: " in warning for warning in report.conversion.warnings)
