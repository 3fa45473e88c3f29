"""Config: defaults, ranges, and the way through JSON."""

from __future__ import annotations

import json
import re

import pytest

from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError


def test_widths_default_to_the_architecture() -> None:
    config = Config(d_model=8, num_layers=2)
    assert (config.d_att, config.d_ffn, config.rescale_layer, config.vocab_size) == (8, 32, 0, 0)


def test_through_json_and_back() -> None:
    config = Config(d_model=8, num_layers=2, rescale_layer=6, vocab_size=256, d_att=16, d_ffn=20, compute_dtype="f64")
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d_model", 0),
        ("d_model", -1),
        ("d_model", 2.5),
        ("d_model", True),
        ("d_model", "8"),
        ("d_model", 1 << 30),
        ("num_layers", 0),
        ("rescale_layer", -1),
        ("vocab_size", -1),
        ("d_ffn", -4),
        ("layer_norm_eps", 0.0),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", "1e-5"),
        ("compute_dtype", "f16"),
        ("architecture", ""),
        ("architecture", 4),
    ],
)
def test_what_is_out_of_range(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"Config\.{field}: expected .*, got {re.escape(repr(value))}"):
        Config.from_dict({"d_model": 8, "num_layers": 2, field: value})


def test_missing_and_unknown_fields_are_all_named() -> None:
    with pytest.raises(ConfigError, match="missing: num_layers; unknown: colour, size"):
        Config.from_dict({"d_model": 8, "size": 1, "colour": 2})


def test_every_field_survives_a_dict() -> None:
    for changed in ({"ranks": {"w": 3}}, {"head_size": 4}, {"group_norm_eps": 1e-3}, {"architecture": "rwkv7"}):
        config = Config(d_model=8, num_layers=1, **changed)  # type: ignore[arg-type]
        assert Config.from_dict(config.to_dict()) == config
    assert not {"head_size", "ranks", "group_norm_eps"} & set(Config(d_model=8, num_layers=1).to_dict())
