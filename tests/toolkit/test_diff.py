from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rwkv_cy
from checkpoints import random_checkpoint, small_parameters, write_safetensors, write_small
from contracts.cases import CONFIGS
from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.diff import diff
from rwkv_cy.toolkit.export import export


def test_it_is_a_function_of_the_package() -> None:
    assert rwkv_cy.diff is diff


@pytest.mark.parametrize("dtype", [None, "f64", "f32"])
def test_formats_and_lossless_types_make_no_difference(small: Path, tmp_path: Path, dtype: str | None) -> None:
    convert(small, tmp_path / "m.h5", dtype=dtype)
    report = diff(small, tmp_path / "m.h5")
    assert report.same
    assert report.different == ()
    assert report.formats == ("safetensors", "hdf5")
    assert len(report.tensors) == len(small_parameters())
    assert report.config == {}


@pytest.mark.parametrize("layout", ["original", "fla"])
def test_layouts_make_no_difference(tmp_path: Path, layout: str) -> None:
    source = write_safetensors(tmp_path / "a", random_checkpoint(CONFIGS["rwkv7"], optional=False))
    export(source, tmp_path / "b.safetensors", layout=layout)
    assert diff(source, tmp_path / "b.safetensors").same


def test_the_most_different_tensor_is_first(tmp_path: Path) -> None:
    parameters = small_parameters()
    head = parameters["head.weight"].copy()
    head[7, 3] += 100
    key = parameters["blocks.1.att.key.weight"] * np.float32(1 + 1e-6)
    other = write_small(tmp_path / "b", head__weight=head, blocks__1__att__key__weight=key)
    report = diff(write_small(tmp_path / "a"), other)
    assert not report.same
    assert [tensor.name for tensor in report.different] == ["head.weight", "blocks.1.att.key.weight"]
    first = report.tensors[0]
    assert first.difference is not None
    assert (first.place, first.difference.differing) == ((7, 3), 1)
    assert first.difference.largest == pytest.approx(100)


def test_a_tolerance(tmp_path: Path) -> None:
    head = small_parameters()["head.weight"] * np.float32(1.001)
    one, other = write_small(tmp_path / "a"), write_small(tmp_path / "b", head__weight=head)
    assert diff(one, other, tolerance=0.002).same
    assert not diff(one, other, tolerance=0.0005).same
    for tolerance in (-1, np.nan):
        with pytest.raises(ConfigError, match="expected a non-negative number"):
            diff(one, other, tolerance=tolerance)


def test_nan_is_the_largest_difference(tmp_path: Path) -> None:
    weight = np.array([np.nan, *small_parameters()["ln_out.weight"][1:]], "f4")
    report = diff(write_small(tmp_path / "a"), write_small(tmp_path / "b", ln_out__weight=weight), tolerance=1e9)
    assert [tensor.name for tensor in report.different] == ["ln_out.weight"]
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dict()["tensors"][0]["difference"]["relative"] is None


def test_names_and_shapes(tmp_path: Path) -> None:
    parameters = small_parameters()
    other = dict(parameters)
    del other["ln_out.bias"]
    other["surplus"] = np.ones(3, "f4")
    other["head.weight"] = np.ones((9, 32), "f4")
    report = diff(write_small(tmp_path / "a"), write_safetensors(tmp_path / "b", other))
    assert report.only_in == (("ln_out.bias",), ("surplus",))
    (reshaped,) = report.different
    assert (reshaped.name, reshaped.difference, reshaped.shapes[1]) == ("head.weight", None, (9, 32))
    (problem,) = report.problems
    assert "missing ln_out.bias" in problem


def test_files_that_are_not_models_are_compared(tmp_path: Path) -> None:
    state = {"blocks.0.att.time_state": np.ones((2, 4, 4), "f4")}
    one, other = (write_safetensors(tmp_path / name, state) for name in "ab")
    report = diff(one, other)
    assert report.same
    assert len(report.problems) == 2


def test_config_and_tokenizer(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(small.read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", "layer_norm_epsilon": 1e-3}))
    convert(small, tmp_path / "m.h5", tokenizer="none")
    report = diff(folder, tmp_path / "m.h5")
    assert report.config == {"layer_norm_eps": (1e-3, 1e-5)}
    assert not report.same
    assert (report.tokenizers, report.same_tokenizer) == (("bytes", "none"), False)
    assert diff(small, tmp_path / "m.h5").same  # a tokenizer is not a difference of numbers


def test_patterns(small: Path, tmp_path: Path) -> None:
    head = np.ones((256, 32), "f4")
    other = write_small(tmp_path / "b", head__weight=head)
    assert diff(small, other, tensors="blocks.*").same
    assert not diff(small, other, tensors="*.weight").same
    with pytest.raises(ConfigError, match="no tensor has a name that matches 'x\\*'; names are such as emb"):
        diff(small, other, tensors="x*")


def test_progress_reaches_its_end(small: Path) -> None:
    calls: list[tuple[int, int]] = []
    diff(small, small, progress=lambda done, total: calls.append((done, total)))
    total = sum(array.size for array in small_parameters().values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_errors_name_the_file(small: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(small.read_bytes()[:-1])
    with pytest.raises(FormatError, match="damaged"):
        diff(small, tmp_path / "damaged")
    with pytest.raises(StorageError, match="missing"):
        diff(tmp_path / "missing", small)
