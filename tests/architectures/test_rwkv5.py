"""The tables of RWKV-5.0, 5.1 and 5.2: dimensions from shapes, initial values by their formulas, errors."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from rwkv56_shapes import rwkv5_config
from rwkv_cy.architectures import ARCHITECTURES, Architecture, check_parameters, detect, version_label
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.tensors.tensor import Parameter

MINORS = pytest.mark.parametrize("minor", [0, 1, 2])


def of(minor: int) -> Architecture:
    return ARCHITECTURES[f"rwkv5.{minor}"]


def small(minor: int, num_layers: int = 3, **changed: int) -> Config:
    """Return dimensions that are all different."""
    return rwkv5_config(minor, 16, num_layers, 8, **{"vocab_size": 10, "d_att": 24, "d_ffn": 40, **changed})


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in ARCHITECTURES[config.architecture].parameters(config)}


@pytest.mark.parametrize(
    ("width", "layers", "d_ffn", "count"),
    [(1024, 24, 3584, 461_721_600), (2048, 24, 7168, 1_577_754_624), (4096, 32, 14336, 7_518_044_160)],
)
def test_released_models_have_as_many_parameters(width: int, layers: int, d_ffn: int, count: int) -> None:
    config = rwkv5_config(2, width, layers, 64, vocab_size=65536, d_ffn=d_ffn)
    table = [spec for spec in of(2).parameters(config) if spec.kind != "state"]
    # Six square matrices, two of the channel mix, and 14 vectors a layer.
    layer = 6 * width**2 + 2 * width * d_ffn + 14 * width
    assert sum(math.prod(spec.shape) for spec in table) == 2 * 65536 * width + 4 * width + layers * layer == count
    assert detect({spec.name: spec.shape for spec in table}, "x") == config


@MINORS
@pytest.mark.parametrize("num_layers", [1, 3])
def test_dimensions_are_read_off_the_shapes_in_any_order(minor: int, num_layers: int) -> None:
    config = small(minor, num_layers)
    names = list(shapes(config).items())
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert detect(dict(names), "x") == config
        check_parameters(config, dict(names), "x")
    assert version_label(dict(names)) == f"RWKV-5.{minor}"


@MINORS
def test_kinds_and_shapes(minor: int) -> None:
    table = {spec.name: spec for spec in of(minor).layer_parameters(small(minor), 1)}
    by_head = (3, 8) if minor == 2 else (3,)
    assert table["att.time_decay"].shape == table["att.time_faaaa"].shape == by_head
    assert ("att.gate.weight" in table) == ("att.time_mix_g" in table) == (minor > 0)
    assert {name for name, spec in table.items() if spec.kind == "matrix"} == {
        *(f"att.{name}.weight" for name in ("receptance", "key", "value", "output")),
        *(("att.gate.weight",) if minor else ()),
        *(f"ffn.{name}.weight" for name in ("key", "receptance", "value")),
    }
    assert [name for name, spec in table.items() if spec.sparse_input] == ["ffn.value.weight"]
    assert [name for name, spec in table.items() if spec.optional] == ["att.time_state"]
    assert not any(spec.kind == "low_rank" for spec in table.values())


@MINORS
def test_state(minor: int) -> None:
    architecture, config = of(minor), small(minor)
    assert [(field.name, field.shape, field.initial) for field in architecture.state_fields(config)] == [
        ("ffn_xx", (16,), 0.0),
        ("att_xx", (16,), 0.0),
        ("att_kv", (3, 8, 8), 0.0),
    ]
    tuned = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    state = architecture.initial_state(config, {"blocks.1.att.time_state": Parameter(tuned, "f32")})
    assert not state[[0, 2]].any()
    np.testing.assert_array_equal(state[1, 32:].reshape(3, 8, 8), tuned)


# --- initial values ---


@MINORS
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_curves_channel_by_channel(minor: int, num_layers: int) -> None:
    config = small(minor, num_layers)
    rng = np.random.default_rng(0)
    c, n = config.d_model, 24 if minor == 2 else 3
    for i in range(num_layers):
        values = {spec.name: spec.initialise(rng) for spec in of(minor).layer_parameters(config, i)}
        r01 = i / (num_layers - 1) if num_layers > 1 else 0.0
        r10 = 1 - i / num_layers
        for channel in range(c):
            d = channel / c
            expected = {
                "att.time_mix_k": d**r10,
                "att.time_mix_v": d**r10 + 0.3 * r01,
                "att.time_mix_r": d ** (0.5 * r10),
                **({"att.time_mix_g": d ** (0.5 * r10)} if minor else {}),
                "ffn.time_mix_k": d**r10,
                "ffn.time_mix_r": d**r10,
            }
            for name, value in expected.items():
                assert values[name].reshape(-1)[channel] == pytest.approx(value, rel=1e-14, abs=1e-14), name
        for h in range(n):
            zigzag = 0.1 * ((h + 1) % 3 - 1) if minor == 2 else 0.0
            expected = {
                "att.time_decay": -6 + 5 * (h / (n - 1)) ** (0.7 + 1.3 * r01),
                "att.time_faaaa": r01 * (1 - h / (n - 1)) + zigzag,
            }
            for name, value in expected.items():
                assert values[name].reshape(-1)[h] == pytest.approx(value, rel=1e-13, abs=1e-13), name
        depth = ((1 + i) / num_layers) ** 0.7 if minor == 2 else 1.0
        np.testing.assert_allclose(values["att.ln_x.weight"], depth)
        assert not values["att.ln_x.bias"].any()


@MINORS
def test_matrices_are_orthogonal_times_their_gain(minor: int) -> None:
    config = small(minor, 1, vocab_size=100)
    wide, hidden = (1.0, 1.0) if minor == 2 else (math.sqrt(24 / 16), math.sqrt(40 / 16))
    gains = {
        **dict.fromkeys(("att.output", "ffn.value", "ffn.receptance"), 0.0),
        **dict.fromkeys(("att.receptance", "att.value"), wide),
        **dict.fromkeys(("att.key", "att.gate") if minor else ("att.key",), 0.1 if minor == 2 else wide),
        "ffn.key": hidden,
    }
    table = {spec.name: spec for spec in of(minor).parameters(config)}
    matrices = {**{f"blocks.0.{name}.weight": gain for name, gain in gains.items()}, "head.weight": 1.25}
    assert matrices.keys() == {name for name, spec in table.items() if spec.kind in ("matrix", "head")}
    for name, gain in matrices.items():
        values = table[name].initialise(np.random.default_rng(0))
        gram = values.T @ values if values.shape[0] > values.shape[1] else values @ values.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-13)


@MINORS
def test_one_layer_one_head_one_channel_divides_by_nothing(minor: int) -> None:
    for spec in of(minor).parameters(rwkv5_config(minor, 1, 1, 1, vocab_size=1)):
        values = spec.initialise(np.random.default_rng(0))
        assert values.shape == spec.shape
        assert np.isfinite(values).all(), spec.name


# --- dimensions left open, and errors ---


@MINORS
def test_contradictions(minor: int) -> None:
    architecture = of(minor)
    assert architecture.complete(replace(small(minor), d_att=128, head_size=0)).head_size == 64
    assert architecture.complete(small(minor)) == small(minor)
    with pytest.raises(ConfigError, match=r"Config\.d_att: expected a multiple of head_size 64, got 24"):
        architecture.complete(replace(small(minor), head_size=0))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected none, got w"):
        architecture.complete(replace(small(minor), ranks={"w": 5}))
    with pytest.raises(ConfigError, match=r"Config\.head_size: expected a divisor of d_att 24, got 0; complete the"):
        architecture.parameters(replace(small(minor), head_size=0))


@MINORS
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("att.time_decay", (5,), r"time_decay: expected \(heads, head size\) of product 24.*got \(5, 4\)"),
        ("att.time_decay", (0,), r"time_decay: expected a vector that is not empty, got shape \(0,\)"),
        ("att.time_decay", (3, 1, 1), r"time_decay: expected a vector that is not empty, got shape \(3, 1, 1\)"),
        ("att.time_decay", (2, 8), r"time_decay: expected \(heads, head size\) of product 24.*got \(2, 8\)"),
        ("att.time_decay", None, r"time_decay: expected this parameter, found none"),
        ("att.receptance.weight", None, r"receptance\.weight: expected this parameter, found none"),
        ("ffn.key.weight", None, r"ffn\.key\.weight: expected this parameter, found none"),
    ],
)
def test_shapes_that_give_no_dimensions(minor: int, name: str, shape: tuple[int, ...] | None, message: str) -> None:
    tensors = shapes(small(minor))
    del tensors[f"blocks.0.{name}"]
    if shape is not None:
        tensors[f"blocks.0.{name}"] = shape
    with pytest.raises(SpecError, match=r"m\.pth: blocks\.0\..*" + message):
        detect(tensors, "m.pth")


def test_a_gate_that_is_missing_in_one_layer() -> None:
    tensors = shapes(small(1))
    del tensors["blocks.1.att.gate.weight"]
    with pytest.raises(SpecError, match=r"x: missing blocks\.1\.att\.gate\.weight \(24, 16\)"):
        check_parameters(detect(tensors, "x"), tensors, "x")
