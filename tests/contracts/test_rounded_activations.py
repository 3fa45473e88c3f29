"""Activations that are rounded to bf16: which products round them, in every version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, tokens_for
from rwkv_cy import load
from rwkv_cy.architectures import architecture_of
from rwkv_cy.dtypes import to_storage

TOKENS = 40
FACTORS = [name for name in ("rwkv6", "rwkv7", "rwkv7a", "rwkv8_rc00") if name in CONFIGS]


@pytest.mark.parametrize("kind", ["matrix", "low_rank"])
@pytest.mark.parametrize("architecture", FACTORS)
def test_what_is_multiplied_in_bf16_rounds_its_activations(tmp_path: Path, architecture: str, kind: str) -> None:
    """A model of which one kind of parameters alone is bf16 rounds in prompts, and not in single tokens."""
    config = CONFIGS[architecture]
    kinds = {spec.name: spec.kind for spec in architecture_of(config).parameters(config)}
    parameters = {
        name: to_storage(array, "f32", "bf16") if kinds[name] == kind else array
        for name, array in random_checkpoint(config).items()
    }
    source = write_safetensors(tmp_path / "s", parameters)
    exact, rounding = load(source), load(source, activations="bf16")
    tokens = tokens_for(exact, TOKENS)
    logits, _ = exact.forward(tokens, all_logits=True)
    found, _ = rounding.forward(tokens, all_logits=True)
    assert found.tobytes() != logits.tobytes()
    assert np.abs(found - logits).max() < 0.02 * np.abs(logits).max()
    assert rounding.forward(tokens[0])[0].tobytes() == exact.forward(tokens[0])[0].tobytes()
