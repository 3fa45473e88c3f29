"""Activations in bf16: prompts are rounded, single tokens are not; errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import load
from rwkv_cy.toolkit.convert import convert


def test_activations_in_bf16(tmp_path: Path, kjv_checkpoint: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "model.h5", dtype="bf16")
    exact, rounded = (load(tmp_path / "model.h5", activations=kind) for kind in ("f32", "bf16"))
    tokens = list(b"In the beginning God created the heaven")
    at_once, state = rounded.forward(tokens, all_logits=True)
    expected, _ = exact.forward(tokens, all_logits=True)
    # Decode rounds nothing: after the same state it gives the bits of float32 activations.
    assert rounded.forward(7, state)[0].tobytes() == exact.forward(7, state)[0].tobytes()
    error = np.sqrt(np.mean((at_once - expected) ** 2) / np.mean(expected**2))
    # bf16 has 8 bits: a rounding is off by 2^-9 at most, and many of them add up at random.
    assert 0 < error < 0.02


def test_activations_that_there_are_not(kjv_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="activations: expected f32 or bf16, got 'f16'"):
        load(kjv_checkpoint, activations="f16")
    with pytest.raises(ConfigError, match="activations: expected f32 or bf16, got 'f16'"):
        load(kjv_checkpoint.with_name("is not looked for"), activations="f16")
