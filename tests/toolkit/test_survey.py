from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, small_parameters, write_safetensors, write_small
from contracts.cases import CONFIGS
from formats.foreign import rwkvcpp_bytes
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.curves import Curve
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.tensors.statistics import measure_tensor
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.survey import PICTURES, LayerMap, Survey, effective_rank, survey


def survey_of(path: Path) -> Survey:
    with Checkpoint.open(path) as checkpoint:
        return survey(checkpoint)


@pytest.mark.parametrize("case", [name for name in CONFIGS if "-" not in name])
def test_every_version(tmp_path: Path, case: str) -> None:
    config, parameters = CONFIGS[case], random_checkpoint(CONFIGS[case])
    path = write_safetensors(tmp_path / "m", parameters)
    found = survey_of(path)
    assert found.layers == config.num_layers
    assert sum(group.tensors for group in found.groups.values()) == len(parameters)
    assert sum(group.parameters for group in found.groups.values()) == sum(a.size for a in parameters.values())
    curves = ARCHITECTURES[config.architecture].curves
    assert list(found.maps)[: len(curves)] == [curve.name for curve in curves]
    for curve in curves:
        shown = [
            curve.transform(parameters[f"blocks.{i}.{curve.name}"].astype(np.float64))
            for i in range(config.num_layers)
            if f"blocks.{i}.{curve.name}" in parameters
        ]
        curve_map = found.maps[curve.name]
        assert curve_map.low == pytest.approx(min(one.min() for one in shown))
        assert curve_map.high == pytest.approx(max(one.max() for one in shown))
        medians = [values[2] for values in curve_map.quantiles.values()]
        assert medians == pytest.approx([np.median(one) for one in shown])
    assert set(found.ranks) == {place.member for place in found.places.values() if place.kind == "low_rank"}
    with Checkpoint.open(path) as checkpoint:
        for name in parameters:
            assert found.statistics[name] == measure_tensor(checkpoint.source, checkpoint.source.info(name))
    key = parameters["blocks.1.att.key.weight"].astype(np.float64)
    assert found.sizes["att.key.weight"][1] == pytest.approx(np.sqrt(np.square(key).mean()))


@pytest.mark.parametrize("dtype", ["bf16", "bf12", "q8", "q4"])
def test_model_files_of_every_kind_of_storage(tmp_path: Path, dtype: str) -> None:
    plain = write_safetensors(tmp_path / "m", random_checkpoint(CONFIGS["rwkv7"]))
    convert(plain, tmp_path / "m.h5", dtype=dtype)
    expected, found = survey_of(plain), survey_of(tmp_path / "m.h5")
    assert found.sizes.keys() == expected.sizes.keys()
    for member, by_layer in found.sizes.items():
        assert by_layer == pytest.approx(expected.sizes[member], rel=0.02)
    for member, by_rank in found.ranks.items():  # low-rank factors are stored transposed
        for layer, (effective, nominal) in by_rank.items():
            assert effective == pytest.approx(expected.ranks[member][layer][0], rel=0.02)
            assert nominal == expected.ranks[member][layer][1]
    np.testing.assert_allclose(found.maps["att.w0"].values, expected.maps["att.w0"].values, rtol=0.02)


def test_foreign_quantized_files(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes(rwkvcpp_bytes(small_parameters(), "q5_1"))
    expected, found = survey_of(write_small(tmp_path / "m")), survey_of(tmp_path / "q")
    assert {dtype for group in found.groups.values() for dtype in group.dtypes} == {"f32", "f16", "q5_1"}
    assert found.sizes["att.key.weight"] == pytest.approx(expected.sizes["att.key.weight"], rel=0.05)
    np.testing.assert_allclose(found.maps["att.time_decay"].values, expected.maps["att.time_decay"].values, rtol=1e-6)


def test_what_is_not_finite_and_subnormal(tmp_path: Path) -> None:
    decay = np.full(32, 0.5, "f4")
    decay[:3] = np.nan, np.inf, 1e-40
    found = survey_of(write_small(tmp_path / "m", blocks__1__att__time_decay=decay))
    assert (found.statistics["blocks.1.att.time_decay"].nan, found.statistics["blocks.1.att.time_decay"].inf) == (1, 1)
    assert found.subnormals == {"blocks.1.att.time_decay": 1}
    values = found.maps["att.time_decay"].values
    assert np.isnan(values[1, 0])
    assert values[1, 1] == 0  # exp(-exp(inf))
    assert np.isfinite(values[1, 2:]).all()


def test_a_file_of_an_unknown_version(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["blocks.0.att.time_mix_k"], parameters["ln_out.bias"]
    found = survey_of(write_safetensors(tmp_path / "m", parameters))
    assert {curve_map.curve.role for curve_map in found.maps.values()} == {"other"}
    assert found.maps["att.time_decay"].quantiles.keys() == {0, 1}


def test_vectors_of_other_lengths_and_many_names(tmp_path: Path) -> None:
    tensors = {f"blocks.{i}.v{j}": np.ones(3 + (i == 2), "f4") for i in range(3) for j in range(50)}
    found = survey_of(write_safetensors(tmp_path / "m", tensors))
    assert len(found.maps) == PICTURES
    assert {one.skipped for one in found.maps.values()} == {1}
    assert found.not_drawn == {f"v{j}" for j in range(PICTURES, 50)}


def test_progress(small: Path) -> None:
    calls: list[tuple[int, int]] = []
    with Checkpoint.open(small) as checkpoint:
        survey(checkpoint, lambda done, total: calls.append((done, total)))
        total = sum(checkpoint.source.info(name).source_nbytes for name in checkpoint.source.names())
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


def test_maps_of_many_layers_and_channels_are_averages() -> None:
    curve_map = LayerMap(Curve("x", "other", "numbers"), 1000, 960)
    for layer in range(1000):
        curve_map.add(layer, np.full(960, float(layer)) + np.arange(960) // 10 / 100)
    values = curve_map.values
    assert values.shape == (64, 96)
    np.testing.assert_allclose(values[0], 7.5 + np.arange(96) / 100)  # layers 0 to 15
    assert (curve_map.low, curve_map.high) == (0, 999.95)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40)])
def test_effective_rank(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((40, 7)))
    assert effective_rank(basis.reshape(40, 7) if shape[0] == 40 else basis.T) == pytest.approx(7)
    one = np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1]))
    assert effective_rank(one) == pytest.approx(1, abs=1e-6)
    assert effective_rank(one * 1e-200) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.zeros(shape)) == 0
