"""RWKV-4's table: initial values by their formulas, state layout, signature."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError

RWKV4 = ARCHITECTURES["rwkv4"]

#: The scale of each matrix, from RWKV-LM's own table.
SCALES = {
    "att.key.weight": 0.0,
    "att.value.weight": 1.0,
    "att.receptance.weight": 0.0,
    "att.output.weight": 0.0,
    "ffn.key.weight": 1.0,
    "ffn.receptance.weight": 0.0,
    "ffn.value.weight": 0.0,
}


def initial(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {spec.name: spec.initialise(rng) for spec in RWKV4.parameters(config)}


@pytest.mark.parametrize("d_att", [7, 10])
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_time_curves_channel_by_channel(num_layers: int, d_att: int) -> None:
    config = Config(d_model=7, num_layers=num_layers, vocab_size=11, d_att=d_att)
    values = initial(config)
    c = config.d_model
    for i in range(num_layers):
        r01 = i / (num_layers - 1) if num_layers > 1 else 0.0
        r10 = 1 - i / num_layers
        for h in range(d_att):
            expected = {
                "att.time_decay": -5 + 8 * (h / (d_att - 1)) ** (0.7 + 1.3 * r01),
                "att.time_first": math.log(0.3) + ((h + 1) % 3 - 1) / 2,
            }
            for name, value in expected.items():
                assert values[f"blocks.{i}.{name}"][h] == pytest.approx(value, rel=1e-14, abs=1e-14)
        for h in range(c):
            expected = {
                "att.time_mix_k": (h / c) ** r10,
                "att.time_mix_v": (h / c) ** r10 + 0.3 * r01,
                "att.time_mix_r": (h / c) ** (r10 / 2),
                "ffn.time_mix_k": (h / c) ** r10,
                "ffn.time_mix_r": (h / c) ** r10,
            }
            for name, value in expected.items():
                assert values[f"blocks.{i}.{name}"].reshape(-1)[h] == pytest.approx(value, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_matrices_are_orthogonal_times_their_scale(num_layers: int) -> None:
    config = Config(d_model=6, num_layers=num_layers, vocab_size=20)
    values = initial(config)
    scales = {f"blocks.{i}.{name}": scale for i in range(num_layers) for name, scale in SCALES.items()}
    scales["head.weight"] = 0.5
    for spec in RWKV4.parameters(config):
        if not spec.quantizable:
            continue
        matrix, scale = values[spec.name], scales.pop(spec.name)
        rows, cols = matrix.shape
        gain = scale * (math.sqrt(rows / cols) if rows > cols else 1.0)
        gram = matrix.T @ matrix if rows > cols else matrix @ matrix.T
        np.testing.assert_allclose(gram, gain**2 * np.eye(min(rows, cols)), atol=1e-13)
    assert not scales


def test_embedding_and_norms() -> None:
    values = initial(Config(d_model=64, num_layers=1, vocab_size=300))
    emb = values["emb.weight"]
    assert np.abs(emb).max() <= 1e-4
    assert emb.max() > 0.99e-4 > -0.99e-4 > emb.min()
    for name in ("blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "ln_out"):
        assert (values[f"{name}.weight"] == 1).all()
        assert (values[f"{name}.bias"] == 0).all()


def test_one_channel_divides_by_nothing() -> None:
    values = initial(Config(d_model=1, num_layers=1, vocab_size=2))
    assert all(np.isfinite(value).all() for value in values.values())


def test_the_seed_decides() -> None:
    config = Config(d_model=8, num_layers=2, vocab_size=9)
    one, same, other = initial(config, 1), initial(config, 1), initial(config, 2)
    assert all((one[name] == same[name]).all() for name in one)
    assert (one["head.weight"] != other["head.weight"]).any()


def test_signs_of_an_orthogonal_matrix_are_free() -> None:
    # A draw that kept the sign convention of QR would never have a negative diagonal in r, and a biased mean.
    config = Config(d_model=2, num_layers=1, vocab_size=2)
    corners = [initial(config, seed)["blocks.0.att.value.weight"][0, 0] for seed in range(400)]
    assert abs(np.mean(corners)) < 0.15


def test_shapes_of_a_whole_model() -> None:
    config = Config(d_model=8, num_layers=2, vocab_size=9, d_att=12, d_ffn=20)
    specs: dict[str, ParameterSpec] = {spec.name: spec for spec in RWKV4.parameters(config)}
    assert len(specs) == 2 * 18 + 2 + 4
    assert specs["blocks.1.att.key.weight"].shape == (12, 8)
    assert specs["blocks.1.att.output.weight"].shape == (8, 12)
    assert specs["blocks.1.ffn.value.weight"].shape == (8, 20)
    assert specs["blocks.0.att.time_mix_k"].shape == (1, 1, 8)
    assert specs["blocks.0.att.time_decay"].shape == (12,)
    assert "blocks.1.ln0.weight" not in specs
    assert all(spec.initialise(np.random.default_rng(0)).shape == spec.shape for spec in specs.values())
    assert {spec.kind for spec in specs.values()} == {"matrix", "vector", "embedding", "head"}


def test_state_fields_in_the_seeds_order() -> None:
    fields = RWKV4.state_fields(Config(d_model=4, num_layers=1, d_att=6))
    assert [(field.name, field.shape, field.initial) for field in fields] == [
        ("ffn_xx", (4,), 0.0),
        ("att_xx", (4,), 0.0),
        ("att_aa", (6,), 0.0),
        ("att_bb", (6,), 0.0),
        ("att_pp", (6,), -1e30),
    ]


def test_heads_and_ranks_are_refused() -> None:
    config = Config(d_model=32, num_layers=1)
    assert RWKV4.complete(config) == config
    with pytest.raises(ConfigError, match=r"Config.head_size: RWKV-4 does not have heads, and 16 was given; leave it"):
        RWKV4.complete(replace(config, head_size=16))
    with pytest.raises(ConfigError, match=r"Config.ranks: expected none, got w"):
        RWKV4.complete(replace(config, ranks={"w": 5}))
