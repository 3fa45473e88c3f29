"""The reference implementations of RWKV-5, 6, 7 and 7a against the authors' package, no parameter neutral."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import REFERENCES
from rwkv7_shapes import SMALL, SMALL_7A_32
from rwkv56_shapes import SMALL_5, SMALL_6
from rwkv_cy.kernels.reference import rwkv7
from rwkv_package import PackageModel, assert_close

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

CONFIGS = {**SMALL_5, **SMALL_6, **SMALL, **SMALL_7A_32}


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_states(tmp_path: Path, name: str, optional: bool) -> None:
    config = CONFIGS[name]
    parameters = random_checkpoint(config, seed=3, optional=optional)
    tokens = np.random.default_rng(1).integers(config.vocab_size, size=200).tolist()
    expected, expected_states = PackageModel(tmp_path, parameters).forward(tokens)
    logits, states = REFERENCES[config.architecture](parameters, config, tokens)
    assert_close(logits, expected)
    for state, expected_state in zip(states, expected_states, strict=True):
        for field, array in state.items():
            assert_close(array, expected_state[field])


def test_keys_next_to_nothing(tmp_path: Path) -> None:
    """The norm of a key counts as 1e-12 at least: seen in what a tuned state becomes."""
    config = SMALL["odd ranks"]
    parameters = random_checkpoint(config, seed=3)
    for i in range(config.num_layers):
        parameters[f"blocks.{i}.att.key.weight"] *= np.float32(1e-13)
    tokens = list(range(20))
    expected, expected_states = PackageModel(tmp_path, parameters).forward(tokens)
    logits, states = rwkv7.forward(parameters, config, tokens)
    assert_close(logits, expected)
    for state, expected_state in zip(states, expected_states, strict=True):
        assert_close(state["att_kv"], expected_state["att_kv"])
