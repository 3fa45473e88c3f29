"""RWKV-7's table: dimensions from shapes, optional parameters, initial values by their formulas, errors."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES, check_parameters, detect, version_label
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.config import Config
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.tensors.tensor import Parameter

RWKV7 = ARCHITECTURES["rwkv7"]

#: Width, layers, ranks (w, a, v, g) and number of parameters of the released models.
RELEASED = [
    (768, 12, (64, 64, 32, 128), 191_084_544),
    (1024, 24, (64, 64, 32, 128), 450_834_432),
    (2048, 24, (96, 96, 64, 256), 1_527_668_736),
    (2560, 32, (96, 96, 64, 320), 2_948_065_280),
    (4096, 32, (128, 128, 96, 480), 7_199_932_416),
    (4096, 61, (128, 128, 96, 480), 13_238_317_056),
]

VALUE_RESIDUAL_OF_LAYER_0 = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")


def small(num_layers: int = 3, **changed: object) -> Config:
    """Return dimensions that are all different."""
    ranks = {"w": 5, "a": 7, "v": 3, "g": 11} if num_layers > 1 else {"w": 5, "a": 7, "g": 11}
    values: dict[str, object] = {
        "d_model": 16,
        "num_layers": num_layers,
        "vocab_size": 10,
        "d_att": 24,
        "d_ffn": 40,
        "architecture": "rwkv7",
        "head_size": 8,
        "ranks": ranks,
    }
    return Config(**{**values, **changed})  # type: ignore[arg-type]


def shapes(config: Config, *, optional: bool = True) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in RWKV7.parameters(config) if optional or not spec.optional}


def specs(config: Config) -> dict[str, ParameterSpec]:
    return {spec.name: spec for spec in RWKV7.parameters(config)}


@pytest.mark.parametrize(("width", "layers", "ranks", "count"), RELEASED)
def test_released_models_have_as_many_parameters(width: int, layers: int, ranks: tuple[int, ...], count: int) -> None:
    config = Config(
        d_model=width,
        num_layers=layers,
        vocab_size=65536,
        architecture="rwkv7",
        head_size=64,
        ranks=dict(zip("wavg", ranks, strict=True)),
    )
    table = RWKV7.parameters(config)
    assert sum(math.prod(spec.shape) for spec in table if spec.kind != "state") == count
    # 33 tensors a layer and 6 outside: ln0 has two, as have emb and head, ln_out the rest.
    assert sum(spec.kind != "state" for spec in table) == 33 * layers + 6
    assert detect({spec.name: spec.shape for spec in table}, "x") == config


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("optional", [True, False])
def test_dimensions_are_read_off_the_shapes_in_any_order(num_layers: int, optional: bool) -> None:
    config = small(num_layers)
    names = list(shapes(config, optional=optional).items())
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert detect(dict(names), "x") == config
        check_parameters(config, dict(names), "x")
    assert version_label(dict(names)) == "RWKV-7"


def test_a_layer_alone_may_have_a_value_residual() -> None:
    config = small(1, ranks={"w": 5, "a": 7, "v": 3, "g": 11})
    tensors = shapes(config)
    assert detect(tensors, "x") == config
    check_parameters(config, tensors, "x")
    for name in VALUE_RESIDUAL_OF_LAYER_0:
        del tensors[name]
    assert detect(tensors, "x") == small(1)


def test_what_may_be_missing() -> None:
    table = specs(small())
    states = {f"blocks.{i}.att.time_state" for i in range(3)}
    assert {name for name, spec in table.items() if spec.optional} == {*VALUE_RESIDUAL_OF_LAYER_0, *states}
    assert all(table[name].kind == "state" and table[name].shape == (3, 8, 8) for name in states)
    tensors = {name: spec.shape for name, spec in table.items()}
    del tensors["blocks.1.att.v1"]
    with pytest.raises(SpecError, match=r"x: blocks\.1\.att\.v1: expected this parameter, found none"):
        detect(tensors, "x")
    with pytest.raises(SpecError, match=r"x: missing blocks\.1\.att\.v1 \(16, 3\)"):
        check_parameters(small(), tensors, "x")


def test_kinds_and_orientations() -> None:
    table = {spec.name: spec for spec in RWKV7.layer_parameters(small(), 1)}
    low_rank = {f"att.{name}{factor}" for name in "wavg" for factor in (1, 2)}
    assert {name for name, spec in table.items() if spec.kind == "low_rank"} == low_rank
    assert {name for name, spec in table.items() if spec.orientation == "in_out"} == low_rank
    assert {name for name, spec in table.items() if spec.kind == "matrix"} == {
        *(f"att.{name}.weight" for name in ("receptance", "key", "value", "output")),
        "ffn.key.weight",
        "ffn.value.weight",
    }
    assert [name for name, spec in table.items() if spec.sparse_input] == ["ffn.value.weight"]
    assert table["att.w1"].shape == (16, 5)
    assert table["att.w2"].shape == (5, 24)
    assert table["att.output.weight"].shape == (16, 24)
    assert table["att.x_r"].shape == (1, 1, 16)
    assert table["att.k_k"].shape == (1, 1, 24)
    assert table["att.r_k"].shape == (3, 8)
    assert "ln0.weight" not in table
    assert "att.g0" not in table


# --- state ---


def test_state_fields_in_order() -> None:
    fields = RWKV7.state_fields(small())
    assert [(field.name, field.shape, field.initial) for field in fields] == [
        ("ffn_xx", (16,), 0.0),
        ("att_xx", (16,), 0.0),
        ("att_kv", (3, 8, 8), 0.0),
    ]
    offsets = RWKV7.state_offsets(small())
    assert [offsets[field.name] for field in fields] == [0, 16, 32]


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
def test_a_tuned_state_is_the_initial_state(dtype: str) -> None:
    tuned = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    stored = to_storage(
        tuned.astype(np.float64) if dtype == "f64" else tuned, "f64" if dtype == "f64" else "f32", dtype
    )
    state = RWKV7.initial_state(small(), {"blocks.1.att.time_state": Parameter(stored, dtype)})
    assert state.shape == (3, 32 + 3 * 64)
    assert not state[[0, 2]].any()
    assert not state[1, :32].any()
    tolerance = {"bf16": 2.0**-8, "f16": 2.0**-11}.get(dtype, 0.0)
    np.testing.assert_allclose(state[1, 32:].reshape(3, 8, 8), tuned, rtol=tolerance)


def test_without_a_tuned_state_all_is_zero() -> None:
    assert not RWKV7.initial_state(small(), {}).any()


# --- initial values ---


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_curves_channel_by_channel(num_layers: int) -> None:
    config = small(num_layers)
    rng = np.random.default_rng(0)
    c, a, n = config.d_model, config.d_att, config.head_size
    for i in range(num_layers):
        values = {spec.name: spec.initialise(rng) for spec in RWKV7.layer_parameters(config, i)}
        r01 = i / (num_layers - 1) if num_layers > 1 else 0.0
        r10 = 1 - i / num_layers
        for channel in range(c):
            d = channel / c
            expected = {
                "att.x_r": 1 - d ** (0.2 * r10),
                "att.x_w": 1 - d ** (0.9 * r10),
                "att.x_k": 1 - d ** (0.7 * r10),
                "att.x_v": 1 - d ** (0.7 * r10),
                "att.x_a": 1 - d ** (0.9 * r10),
                "att.x_g": 1 - d ** (0.2 * r10),
                "ffn.x_k": 1 - d ** (r10**4),
            }
            for name, value in expected.items():
                assert values[name].reshape(-1)[channel] == pytest.approx(value, rel=1e-14, abs=1e-14), name
        for channel in range(a):
            linear = channel / (a - 1) - 0.5
            z = (channel % n - (n - 1) / 2) / ((n - 1) / 2)
            zz = z * abs(z)
            expected = {
                "att.w0": -6 + 6 * (channel / (a - 1)) ** (1 + r01**0.3) + 0.5 + 2.5 * zz,
                "att.a0": -0.19 + 0.3 * zz + 0.4 * linear,
                "att.k_k": 0.71 - 0.1 * linear,
                "att.k_a": 1.02,
                "att.ln_x.weight": ((1 + i) / num_layers) ** 0.7,
                "att.ln_x.bias": 0.0,
            }
            if i:
                expected["att.v0"] = 0.73 - 0.4 * linear
            for name, value in expected.items():
                assert values[name].reshape(-1)[channel] == pytest.approx(value, rel=1e-13, abs=1e-13), name
        assert (values["att.r_k"] == -0.04).all()
        assert not values["att.time_state"].any()
        for norm in ("ln1", "ln2"):
            assert (values[f"{norm}.weight"] == 1).all()
            assert (values[f"{norm}.bias"] == 0).all()


#: Gain of each matrix; those of the low-rank factors and of the head grow with rows over columns.
GAINS = {
    "att.receptance.weight": 1.0,
    "att.key.weight": 0.1,
    "att.value.weight": 1.0,
    "att.output.weight": 0.0,
    "ffn.key.weight": 1.0,
    "ffn.value.weight": 0.0,
    **{f"att.{name}1": 0.0 for name in "wavg"},
    **{f"att.{name}2": 0.1 for name in "wavg"},
}


@pytest.mark.parametrize("ranks", [{"w": 5, "a": 7, "v": 3, "g": 11}, {"w": 5, "a": 30, "v": 3, "g": 50}])
def test_matrices_are_orthogonal_times_their_gain(ranks: dict[str, int]) -> None:
    config = small(2, ranks=ranks, vocab_size=100)
    rng = np.random.default_rng(0)
    gains = {f"blocks.{i}.{name}": gain for i in range(2) for name, gain in GAINS.items()}
    gains["head.weight"] = 0.5 * math.sqrt(100 / 16)
    for name, spec in specs(config).items():
        if spec.kind not in ("matrix", "low_rank", "head"):
            continue
        values, gain = spec.initialise(rng), gains.pop(name)
        rows, cols = values.shape
        assert values.shape == spec.shape
        if name[-1] == "2":
            gain *= max(1.0, math.sqrt(rows / cols))
        gram = values.T @ values if rows > cols else values @ values.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(min(rows, cols)), atol=1e-13)
    assert not gains


def test_the_head_of_a_small_vocabulary_does_not_grow() -> None:
    head = specs(small(vocab_size=5))["head.weight"].initialise(np.random.default_rng(0))
    np.testing.assert_allclose(head @ head.T, 0.25 * np.eye(5), atol=1e-14)


@pytest.mark.parametrize("head_size", [1, 2])
def test_one_layer_one_head_one_channel_divides_by_nothing(head_size: int) -> None:
    config = Config(
        d_model=1,
        num_layers=1,
        vocab_size=1,
        d_att=head_size,
        architecture="rwkv7",
        head_size=head_size,
        ranks=dict.fromkeys("wavg", 1),
    )
    for spec in RWKV7.parameters(config):
        values = spec.initialise(np.random.default_rng(0))
        assert values.shape == spec.shape
        assert np.isfinite(values).all(), spec.name


# --- dimensions left open, and errors ---


@pytest.mark.parametrize(
    ("width", "ranks"),
    [
        (64, {"w": 32, "a": 32, "v": 32, "g": 32}),
        (768, {"w": 64, "a": 64, "v": 32, "g": 128}),
        (1024, {"w": 64, "a": 64, "v": 64, "g": 160}),  # 2.5 rounds to the even number
        (4096, {"w": 160, "a": 160, "v": 96, "g": 320}),
    ],
)
def test_suggested_head_size_and_ranks(width: int, ranks: dict[str, int]) -> None:
    config = RWKV7.complete(Config(d_model=width, num_layers=2, architecture="rwkv7"))
    assert config.head_size == 64
    assert config.ranks == ranks
    assert config.d_ffn == 4 * width


def test_what_is_given_stays() -> None:
    config = RWKV7.complete(small(ranks={"g": 9}))
    assert config.head_size == 8
    assert config.ranks == {"w": 32, "a": 32, "v": 32, "g": 9}
    assert RWKV7.complete(config) == config
    assert RWKV7.complete(small(1)) == small(1)


def test_contradictions() -> None:
    with pytest.raises(
        ConfigError, match=r"Config\.d_att: expected a multiple of head_size 64, got 24; give a head_size"
    ):
        RWKV7.complete(replace(small(), head_size=0))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected names among w, a, v, g, got k, z"):
        RWKV7.complete(small(ranks={"w": 5, "z": 3, "k": 2}))
    with pytest.raises(ConfigError, match=r"Config\.head_size: expected a divisor of d_att 24, got 0; complete the"):
        RWKV7.parameters(replace(small(), head_size=0))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected w, a, v, g, missing v, g; complete the config"):
        RWKV7.parameters(small(ranks={"w": 5, "a": 7}))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blocks.0.att.r_k", (2, 8), r"r_k: expected \(heads, head size\) of product 24.*got \(2, 8\)"),
        ("blocks.0.att.r_k", (24,), r"r_k: expected a matrix that is not empty, got shape \(24,\)"),
        ("blocks.0.att.g1", (16, 0), r"g1: expected a matrix that is not empty, got shape \(16, 0\)"),
        ("blocks.0.att.w1", None, r"w1: expected this parameter, found none"),
        ("blocks.0.att.receptance.weight", None, r"receptance\.weight: expected this parameter, found none"),
        ("blocks.0.ffn.key.weight", None, r"ffn\.key\.weight: expected this parameter, found none"),
    ],
)
def test_shapes_that_give_no_dimensions(name: str, shape: tuple[int, ...] | None, message: str) -> None:
    tensors = shapes(small())
    del tensors[name]
    if shape is not None:
        tensors[name] = shape
    with pytest.raises(SpecError, match=r"m\.pth: blocks\.0\..*" + message):
        detect(tensors, "m.pth")


def test_a_layer_of_another_rank() -> None:
    tensors = shapes(small())
    tensors["blocks.2.att.w1"] = (16, 6)
    with pytest.raises(SpecError, match=r"x: blocks\.2\.att\.w1: expected shape \(16, 5\), got \(16, 6\)"):
        check_parameters(detect(tensors, "x"), tensors, "x")
