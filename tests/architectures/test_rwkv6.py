"""RWKV-6's table: dimensions from shapes, optional parameters, initial values by their formulas, errors."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from rwkv56_shapes import rwkv6_config
from rwkv_cy.architectures import ARCHITECTURES, check_parameters, detect, version_label
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.tensors.tensor import Parameter

RWKV6 = ARCHITECTURES["rwkv6"]

#: Width, layers, ranks (mixes and decay) and d_ffn of the released models.
RELEASED = [
    (2048, 24, (32, 64), 7168),
    (2560, 32, (32, 64), 8960),
    (4096, 32, (64, 128), 14336),
    (4096, 61, (64, 128), 14336),
]


def small(num_layers: int = 3, **changed: int) -> Config:
    """Return dimensions that are all different."""
    return rwkv6_config(16, num_layers, 8, (3, 5), **{"vocab_size": 10, "d_att": 24, "d_ffn": 40, **changed})


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in RWKV6.parameters(config)}


@pytest.mark.parametrize(("width", "layers", "ranks", "d_ffn"), RELEASED)
def test_released_models_have_as_many_parameters(width: int, layers: int, ranks: tuple[int, int], d_ffn: int) -> None:
    config = rwkv6_config(width, layers, 64, ranks, vocab_size=65536, d_ffn=d_ffn)
    table = [spec for spec in RWKV6.parameters(config) if spec.kind != "state"]
    # Six square matrices, two of the channel mix, the low-rank factors, and 16 vectors a layer.
    layer = 6 * width**2 + 2 * width * d_ffn + (10 * ranks[0] + 2 * ranks[1]) * width + 16 * width
    count = sum(math.prod(spec.shape) for spec in table)
    assert count == 2 * 65536 * width + 4 * width + layers * layer
    assert (width != 2048) or count == 1_599_873_024
    assert len(table) == 28 * layers + 6
    assert detect({spec.name: spec.shape for spec in table}, "x") == config
    assert RWKV6.complete(replace(config, head_size=0, ranks={})) == config


@pytest.mark.parametrize("num_layers", [1, 3])
def test_dimensions_are_read_off_the_shapes_in_any_order(num_layers: int) -> None:
    config = small(num_layers)
    names = list(shapes(config).items())
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert detect(dict(names), "x") == config
        check_parameters(config, dict(names), "x")
    assert version_label(dict(names)) == "RWKV-6"


def test_kinds_and_orientations() -> None:
    table = {spec.name: spec for spec in RWKV6.layer_parameters(small(), 1)}
    factors = {"att.time_maa_w1": (16, 15), "att.time_decay_w1": (16, 5), "att.time_decay_w2": (5, 24)}
    assert {name: spec.shape for name, spec in table.items() if spec.orientation == "in_out"} == factors
    assert table["att.time_maa_w2"].shape == (5, 3, 16)
    assert {name for name, spec in table.items() if spec.kind == "low_rank"} == {*factors, "att.time_maa_w2"}
    assert {name for name, spec in table.items() if spec.kind == "matrix"} == {
        *(f"att.{name}.weight" for name in ("receptance", "key", "value", "output", "gate")),
        *(f"ffn.{name}.weight" for name in ("key", "receptance", "value")),
    }
    assert [name for name, spec in table.items() if spec.sparse_input] == ["ffn.value.weight"]
    assert [name for name, spec in table.items() if spec.optional] == ["att.time_state"]
    assert table["att.time_decay"].shape == (1, 1, 24)
    assert table["att.time_faaaa"].shape == (3, 8)
    assert table["att.time_state"].shape == (3, 8, 8)
    assert "ln0.weight" not in table


def test_state_fields_in_order() -> None:
    assert [(field.name, field.shape, field.initial) for field in RWKV6.state_fields(small())] == [
        ("ffn_xx", (16,), 0.0),
        ("att_xx", (16,), 0.0),
        ("att_kv", (3, 8, 8), 0.0),
    ]


def test_a_tuned_state_is_the_initial_state() -> None:
    tuned = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    state = RWKV6.initial_state(small(), {"blocks.1.att.time_state": Parameter(tuned, "f32")})
    assert not state[[0, 2]].any()
    assert not state[1, :32].any()
    np.testing.assert_array_equal(state[1, 32:].reshape(3, 8, 8), tuned)


# --- initial values ---


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_curves_channel_by_channel(num_layers: int) -> None:
    config = small(num_layers)
    rng = np.random.default_rng(0)
    c, a = config.d_model, config.d_att
    for i in range(num_layers):
        values = {spec.name: spec.initialise(rng) for spec in RWKV6.layer_parameters(config, i)}
        r01 = i / (num_layers - 1) if num_layers > 1 else 0.0
        r10 = 1 - i / num_layers
        for channel in range(c):
            d = channel / c
            expected = {
                **{f"att.time_maa_{name}": 1 - d**r10 for name in "xwk"},
                "att.time_maa_v": 1 - (d**r10 + 0.3 * r01),
                **{f"att.time_maa_{name}": 1 - d ** (0.5 * r10) for name in "rg"},
                **{f"ffn.time_maa_{name}": 1 - d ** (r10**3) for name in "kr"},
            }
            for name, value in expected.items():
                assert values[name].reshape(-1)[channel] == pytest.approx(value, rel=1e-14, abs=1e-14), name
        for channel in range(a):
            expected = {
                "att.time_decay": -6 + 5 * (channel / (a - 1)) ** (0.7 + 1.3 * r01),
                "att.time_faaaa": r01 * (1 - channel / (a - 1)) + 0.1 * ((channel + 1) % 3 - 1),
                "att.ln_x.weight": ((1 + i) / num_layers) ** 0.7,
                "att.ln_x.bias": 0.0,
            }
            for name, value in expected.items():
                assert values[name].reshape(-1)[channel] == pytest.approx(value, rel=1e-13, abs=1e-13), name
        for name in ("att.time_state", "att.time_maa_w1", "att.time_decay_w1"):
            assert not values[name].any()
        for name in ("att.time_maa_w2", "att.time_decay_w2"):
            assert 0.005 < np.abs(values[name]).max() <= 0.01


def test_matrices_are_orthogonal_times_their_gain() -> None:
    config = small(1, vocab_size=100)
    rng = np.random.default_rng(0)
    gains = {
        **dict.fromkeys(("att.output", "ffn.value", "ffn.receptance"), 0.0),
        **dict.fromkeys(("att.key", "att.gate"), 0.1),
        **dict.fromkeys(("att.receptance", "att.value", "ffn.key"), 1.0),
    }
    table = {spec.name: spec for spec in RWKV6.parameters(config)}
    for name, gain in {**{f"blocks.0.{n}.weight": g for n, g in gains.items()}, "head.weight": 1.25}.items():
        values = table[name].initialise(rng)
        gram = values.T @ values if values.shape[0] > values.shape[1] else values @ values.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-13)


def test_one_layer_one_head_one_channel_divides_by_nothing() -> None:
    for spec in RWKV6.parameters(rwkv6_config(1, 1, 1, (1, 1), vocab_size=1)):
        values = spec.initialise(np.random.default_rng(0))
        assert values.shape == spec.shape
        assert np.isfinite(values).all(), spec.name


# --- dimensions left open, and errors ---


def test_contradictions() -> None:
    assert RWKV6.complete(replace(small(), ranks={"maa": 9})).ranks == {"maa": 9, "decay": 64}
    with pytest.raises(ConfigError, match=r"Config\.d_att: expected a multiple of head_size 64, got 24"):
        RWKV6.complete(replace(small(), head_size=0))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected names among maa, decay, got w"):
        RWKV6.complete(replace(small(), ranks={"w": 5}))
    with pytest.raises(ConfigError, match=r"Config\.head_size: expected a divisor of d_att 24, got 0; complete the"):
        RWKV6.parameters(replace(small(), head_size=0))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected maa, decay, missing decay; complete the config"):
        RWKV6.parameters(replace(small(), ranks={"maa": 5}))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("att.time_faaaa", (2, 8), r"time_faaaa: expected \(heads, head size\) of product 24.*got \(2, 8\)"),
        ("att.time_faaaa", (1, 2048), r"time_faaaa: expected heads of at most 1024 channels, got 2048"),
        ("att.time_faaaa", (24,), r"time_faaaa: expected a matrix that is not empty, got shape \(24,\)"),
        ("att.time_maa_w1", (16, 14), r"time_maa_w1: expected a multiple of 5 columns, got 14"),
        ("att.time_decay_w1", None, r"time_decay_w1: expected this parameter, found none"),
        ("ffn.key.weight", None, r"ffn\.key\.weight: expected this parameter, found none"),
    ],
)
def test_shapes_that_give_no_dimensions(name: str, shape: tuple[int, ...] | None, message: str) -> None:
    tensors = shapes(small())
    del tensors[f"blocks.0.{name}"]
    if shape is not None:
        tensors[f"blocks.0.{name}"] = shape
    with pytest.raises(SpecError, match=r"m\.pth: blocks\.0\..*" + message):
        detect(tensors, "m.pth")


def test_factors_of_another_rank() -> None:
    tensors = shapes(small()) | {"blocks.2.att.time_maa_w2": (5, 4, 16)}
    with pytest.raises(SpecError, match=r"time_maa_w2: expected shape \(5, 3, 16\), got \(5, 4, 16\)"):
        check_parameters(detect(tensors, "x"), tensors, "x")
