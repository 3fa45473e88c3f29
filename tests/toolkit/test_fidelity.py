from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, random_checkpoint, small_parameters, write_safetensors, write_small
from contracts.cases import CONFIGS
from formats import foreign
from rwkv_cy.architectures import architecture_of
from rwkv_cy.errors import StorageError
from rwkv_cy.records import replace
from rwkv_cy.storage import open_model
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.fidelity import SourceCheck
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

KEY = "blocks.1.att.key.weight"
MATRICES = sum(array.ndim == 2 for array in small_parameters().values())
TENSORS = len(small_parameters())


def check(path: Path, source: Path) -> SourceCheck:
    report = verify(path, against=source)
    assert report.against is not None
    assert report.problems == report.against.problems
    return report.against


def changed(path: Path, name: str = KEY, at: tuple[int, int] = (5, 7), to: float = 3.0) -> Path:
    """Write the small model with one weight changed."""
    array = small_parameters()[name].copy()
    array[at] = to
    return write_small(path, **{name.replace(".", "__"): array})


@pytest.mark.parametrize(
    ("dtype", "exact"), [(None, TENSORS), ("f64", TENSORS), *((dtype, None) for dtype in ("f16", "bf16", "bf12"))]
)
def test_floating_point_types(small: Path, tmp_path: Path, dtype: str | None, exact: int | None) -> None:
    convert(small, tmp_path / "m.h5", dtype=dtype)
    found = check(tmp_path / "m.h5", small)
    assert found.problems == ()
    assert found.exact == (TENSORS - MATRICES if exact is None else exact)
    assert found.exact + found.converted == TENSORS


@pytest.mark.parametrize("dtype", ["q8", "q6", "q4"])
def test_matrices_are_quantized_again(small: Path, tmp_path: Path, dtype: str) -> None:
    convert(small, tmp_path / "m.h5", dtype=dtype)
    found = check(tmp_path / "m.h5", small)
    assert (found.problems, found.exact, found.converted) == ((), TENSORS - MATRICES, MATRICES)
    convert(tmp_path / "m.h5", tmp_path / "copy.h5")
    assert check(tmp_path / "copy.h5", tmp_path / "m.h5").exact == TENSORS
    convert(tmp_path / "m.h5", tmp_path / "f16.h5", dtype="f16")
    assert check(tmp_path / "f16.h5", tmp_path / "m.h5").problems == ()


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "bf12", "q8", "q6", "q4"])
@pytest.mark.parametrize("name", [KEY, "blocks.1.ffn.value.weight"])  # one that is stored transposed
def test_one_other_weight_is_found(small: Path, tmp_path: Path, dtype: str, name: str) -> None:
    convert(changed(tmp_path / "other", name), tmp_path / "m.h5", dtype=dtype)
    (problem,) = check(tmp_path / "m.h5", small).problems
    assert problem.startswith(f"{tmp_path / 'm.h5'}: {name}: expected ")
    place = re.search(r" at \((\d+), (\d+)\)", problem)
    assert place is not None
    # A block has one scale: the first number that differs is in the row of the changed one.
    assert place[1] == "5"
    assert f"in {dtype}, got " in problem.replace("in bf16, got", f"in {dtype}, got")


@pytest.mark.parametrize("name", ["blocks.1.att.w1", "blocks.1.att.w2"])
def test_one_other_weight_of_a_quantized_factor_is_found(tmp_path: Path, name: str) -> None:
    config = replace(CONFIGS["rwkv7"], ranks=dict.fromkeys("wavg", 48))
    parameters = random_checkpoint(config)
    source = write_safetensors(tmp_path / "source", parameters)
    rows, columns = parameters[name].shape
    convert(source, tmp_path / "m.h5", dtype="q4")
    assert check(tmp_path / "m.h5", source).problems == ()
    for at, to in (((37, 45), 0.01), ((rows - 1, columns - 1), 9.0)):  # within the scale of its block, and above it
        array = parameters[name].copy()
        array[at] += to
        other = write_safetensors(tmp_path / "other", {**parameters, name: array})
        (problem,) = check(tmp_path / "m.h5", other).problems
        place = re.search(r": expected .* at \((\d+), (\d+)\), as .* has it, in q8, got ", problem)
        assert place is not None
        found = int(place[1]), int(place[2])
        assert found == (at if to < 1 else (at[0] // 32 * 32, at[1]))  # the scale is that of 32 inputs of an output


@pytest.mark.parametrize("form", ["f32", "q8", "gguf"])
def test_factors_that_were_quantized_after_another_form(tmp_path: Path, form: str) -> None:
    """Those of a source in either orientation, or in blocks, or read through a layout."""
    config = replace(CONFIGS["rwkv7"], ranks=dict.fromkeys("wavg", 48))
    parameters = {name: a for name, a in random_checkpoint(config).items() if "time_state" not in name}
    source = write_safetensors(tmp_path / "source", parameters)
    if form == "gguf":
        export(source, tmp_path / "s.gguf")
    else:
        convert(source, tmp_path / "s.h5", dtype=form)
    before = tmp_path / ("s.gguf" if form == "gguf" else "s.h5")
    convert(before, tmp_path / "m.h5", dtype="q4", requantize=True)
    found = check(tmp_path / "m.h5", before)
    specs = architecture_of(config).parameters(config)
    factors = sum(spec.kind == "low_rank" and spec.name in parameters for spec in specs)
    assert found.problems == ()
    assert found.converted >= (0 if form == "q8" else factors)
    with open_model(tmp_path / "m.h5") as model:
        assert model.info("blocks.1.att.w1").dtype == "q8"


@pytest.mark.parametrize("config", ["rwkv7", "rwkv4"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "st"])
def test_exports(tmp_path: Path, config: str, suffix: str) -> None:
    source = write_safetensors(tmp_path / "source", random_checkpoint(CONFIGS[config]))
    export(source, tmp_path / f"m.{suffix}")
    assert check(tmp_path / f"m.{suffix}", source).problems == ()


def test_a_layout_may_leave_out_what_is_not_used(tmp_path: Path) -> None:
    parameters = random_checkpoint(CONFIGS["rwkv7"])
    source = write_safetensors(tmp_path / "source", parameters)
    left_out = re.compile(r"blocks\.0\.att\.v\d|.*\.time_state")
    rest = {name: array for name, array in parameters.items() if not left_out.fullmatch(name)}
    assert len(parameters) - len(rest) == 3 + CONFIGS["rwkv7"].num_layers
    problems = check(write_safetensors(tmp_path / "rest", rest), source).problems
    names = ", ".join(f"blocks.{i}.att.time_state" for i in range(CONFIGS["rwkv7"].num_layers))
    assert problems == (f"{tmp_path / 'rest'}: expected the tensors of {source}, {names} missing",)


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_what_another_program_quantized(tmp_path: Path, kind: str) -> None:
    parameters = foreign.rwkv4_parameters()
    source = write_safetensors(tmp_path / "source", parameters)
    (tmp_path / "m.bin").write_bytes(foreign.rwkvcpp_bytes(parameters, kind))
    found = check(tmp_path / "m.bin", source)
    assert found.problems == ()
    assert found.within > len(parameters) // 3
    array = parameters[KEY].copy()
    array[3, 9] += 2 * np.abs(array[3]).max()
    (tmp_path / "m.bin").write_bytes(foreign.rwkvcpp_bytes(parameters | {KEY: array}, kind))
    (problem,) = check(tmp_path / "m.bin", source).problems
    assert f"{KEY}: expected " in problem
    assert f"within the precision of {kind}, got " in problem


def test_what_another_program_computed(tmp_path: Path) -> None:
    parameters = foreign.rwkv4_parameters()
    source = write_safetensors(tmp_path / "source", parameters)
    (tmp_path / "m.bin").write_bytes(foreign.rwkvcpp_bytes(parameters, "fp32"))
    assert check(tmp_path / "m.bin", source).within == 2  # time_decay
    name = "blocks.1.att.time_decay"
    (tmp_path / "m.bin").write_bytes(foreign.rwkvcpp_bytes(parameters | {name: parameters[name] + 1e-4}, "fp32"))
    (problem,) = check(tmp_path / "m.bin", source).problems
    assert f"{name}: expected " in problem


def test_nan_is_nan(tmp_path: Path) -> None:
    bad = write_small(tmp_path / "s", ln_out__bias=numbers(np.nan, shape=(32,)))
    convert(bad, tmp_path / "m.h5", dtype="bf16")
    report = verify(tmp_path / "m.h5", against=bad)
    assert report.against is not None
    assert report.against.problems == ()
    assert len(report.problems) == 1  # that it is there


def test_names_shapes_and_config(small: Path, tmp_path: Path) -> None:
    parameters = small_parameters() | {"surplus": np.ones(3, "f4"), "head.weight": np.ones((9, 32), "f4")}
    del parameters["ln_out.bias"]
    problems = verify(write_safetensors(tmp_path / "m", parameters), against=small).problems
    assert f"{tmp_path / 'm'}: expected the tensors of {small}, ln_out.bias missing" in problems
    assert f"{tmp_path / 'm'}: expected tensors of {small}, which does not have surplus" in problems
    assert f"{tmp_path / 'm'}: expected the shapes of {small}, got head.weight (9, 32) instead of (256, 32)" in problems
    other = write_safetensors(tmp_path / "other", random_checkpoint(CONFIGS["rwkv7"]))
    problems = verify(other, against=small).problems
    version = f"{tmp_path / 'other'}: expected a file made from {small}, got another model: RWKV-7 of "
    assert [problem.startswith(version) for problem in problems] == [True]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(small.read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", "layer_norm_epsilon": 1e-3}))
    (problem,) = check(small, folder).problems
    assert problem == f"{small}: config layer_norm_eps: expected 0.001, as in {folder}, got 1e-05"


def test_the_report_is_json(small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5")
    calls: list[tuple[int, int]] = []
    report = verify(tmp_path / "m.h5", against=small, progress=lambda done, total: calls.append((done, total)))
    against = json.loads(json.dumps(report.to_dict()))["against"]
    assert against == {"path": str(small), "exact": TENSORS, "converted": 0, "within": 0, "problems": []}
    assert calls[-1][0] == calls[-1][1] == 3 * report.bytes_read
    assert verify(tmp_path / "m.h5").to_dict()["against"] is None
    with pytest.raises(StorageError, match="missing"):
        verify(small, against=tmp_path / "missing")
