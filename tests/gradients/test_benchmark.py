"""The steps that the benchmark of training compares."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench_training import own_step, torch_step
from rwkv7_shapes import SMALL
from rwkv_cy.model.language_model import LanguageModel


@pytest.mark.oracle
def test_both_steps_have_the_same_loss() -> None:
    model = LanguageModel.new(SMALL["heads of 64"], 0)
    tokens, targets = np.random.default_rng(0).integers(0, model.vocab_size, (2, 3, 9))
    own, other = (step(model, tokens, targets, 1) for step in (own_step, torch_step))
    assert other is not None
    assert own() == pytest.approx(other(), rel=1e-5)
    assert own() == pytest.approx(other(), rel=1e-5)
