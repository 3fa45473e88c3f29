"""RWKV-7a and RWKV-8 rc00: dimensions from shapes, tables, initial values, and errors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import every_logits, tokens_for
from rwkv7_shapes import RELEASED_01B, SMALL, SMALL_7A
from rwkv_cy.architectures import ARCHITECTURES, check_parameters, detect, version_label
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError
from rwkv_cy.model.language_model import LanguageModel

RWKV7, RWKV7A, RC00 = (ARCHITECTURES[name] for name in ("rwkv7", "rwkv7a", "rwkv8_rc00"))
CONFIGS = {
    **{f"7a, {name}": config for name, config in SMALL_7A.items()},
    **{f"rc00, {name}": replace(config, architecture="rwkv8_rc00") for name, config in SMALL.items()},
}
#: What a layer has beside the parameters of RWKV-7: kind, and shape for the dimensions of `SMALL_7A["odd ranks"]`.
ADDED = {
    "rwkv7a": {
        "ffn.s1": ("low_rank", (48, 6)),
        "ffn.s2": ("low_rank", (6, 192)),
        "ffn.s0": ("vector", (192,)),
        "ffn.s_emb.weight": ("table", (100, 36)),
        "ffn.s_emb_x.weight": ("matrix", (36, 48)),
    },
    "rwkv8_rc00": {"ffn.enn.weight": ("table", (100, 48))},
}


def shapes(config: Config, *, optional: bool = True) -> dict[str, tuple[int, ...]]:
    table = ARCHITECTURES[config.architecture].parameters(config)
    return {spec.name: spec.shape for spec in table if optional or not spec.optional}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("optional", [True, False])
def test_dimensions_are_read_off_the_shapes_in_any_order(name: str, optional: bool) -> None:
    config = CONFIGS[name]
    names = list(shapes(config, optional=optional or config.num_layers == 1).items())
    for seed in range(3):
        random.Random(seed).shuffle(names)
        assert detect(dict(names), "x") == config
        check_parameters(config, dict(names), "x")
    assert version_label(dict(names)) == ARCHITECTURES[config.architecture].label


def test_the_released_model_has_as_many_tensors() -> None:
    config = replace(RELEASED_01B, architecture="rwkv7a", ranks={**RELEASED_01B.ranks, "s": 32})
    table = [spec for spec in RWKV7A.parameters(config) if spec.kind != "state"]
    assert len(table) == 462
    assert {spec.shape for spec in table if spec.kind == "table"} == {(65536, 1024)}


@pytest.mark.parametrize("architecture", ADDED)
def test_what_is_added_to_version_7(architecture: str) -> None:
    config = replace(SMALL_7A["odd ranks"], architecture=architecture)
    own = {spec.name: spec for spec in ARCHITECTURES[architecture].layer_parameters(config, 1)}
    base = {spec.name for spec in RWKV7.layer_parameters(config, 1)}
    assert {name: (own[name].kind, own[name].shape) for name in own.keys() - base} == ADDED[architecture]
    assert base <= own.keys()
    assert not any(own[name].optional for name in ADDED[architecture])
    for spec in own.values():
        if spec.kind == "table":
            assert not spec.quantizable
            assert not spec.converted
            assert not spec.stored_transposed
            assert spec.used_in_place


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_model_begins_as_version_7(name: str) -> None:
    """The factor of the tables is 1, to the last bit."""
    config = CONFIGS[name]
    own = {
        spec.name: spec.initialise(np.random.default_rng(0)).astype(np.float32)
        for spec in ARCHITECTURES[config.architecture].parameters(config)
        if ".ffn." in spec.name
    }
    ranks = {name: rank for name, rank in config.ranks.items() if name != "s"}
    base = replace(config, architecture="rwkv7", ranks=ranks)
    parameters = random_checkpoint(base)
    model = LanguageModel(base, parameters)
    same = LanguageModel(config, own | parameters)
    tokens = tokens_for(model, 20)
    assert every_logits(same, tokens)[0].tobytes() == every_logits(model, tokens)[0].tobytes()


def test_dimensions_left_open() -> None:
    config = Config(d_model=64, num_layers=2, vocab_size=10, architecture="rwkv7a")
    assert RWKV7A.complete(config).ranks == {"w": 32, "a": 32, "v": 32, "g": 32, "s": 32}
    assert RWKV7A.complete(replace(config, ranks={"s": 5})).ranks["s"] == 5
    assert "s" not in RC00.complete(replace(config, architecture="rwkv8_rc00")).ranks
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected names among w, a, v, g, s, got z"):
        RWKV7A.complete(replace(config, ranks={"z": 5}))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected names among w, a, v, g, got s"):
        RC00.complete(replace(config, ranks={"s": 5}))
    with pytest.raises(ConfigError, match=r"Config\.ranks: expected a rank s, missing; complete the config"):
        RWKV7A.parameters(replace(RWKV7.complete(replace(config, architecture="rwkv7")), architecture="rwkv7a"))


def test_shapes_that_contradict_each_other() -> None:
    config = SMALL_7A["odd ranks"]
    tensors = shapes(config)
    tensors["blocks.1.ffn.s_emb.weight"] = (100, 35)
    with pytest.raises(SpecError, match=r"s_emb\.weight: expected shape \(100, 36\), got \(100, 35\)"):
        check_parameters(detect(tensors, "x"), tensors, "x")
    tensors = shapes(config)
    del tensors["blocks.0.ffn.s1"]
    with pytest.raises(SpecError, match=r"m\.pth: blocks\.0\.ffn\.s1: expected this parameter, found none"):
        detect(tensors, "m.pth")


def test_a_rank_that_would_take_all_memory() -> None:
    tensors = shapes(SMALL_7A["odd ranks"])
    tensors["blocks.0.ffn.s1"] = (48, 1 << 24)
    with pytest.raises(SpecError, match=r"m\.pth: blocks\.0\.ffn\.s1: expected a rank of at most 256, got 16777216"):
        detect(tensors, "m.pth")
