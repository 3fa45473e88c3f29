"""A tenth of the weights subnormal: every version computes as with zeros there, and leaves the caller's mode alone."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import random_checkpoint
from float_mode import FLAGS, MODES, NEEDS_MODES, mode
from float_mode import current as current_mode
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.dtypes import to_storage
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.tensors.tensor import Parameter

pytestmark = NEEDS_MODES

#: A prompt whose products are packed, and tokens after it.
PROMPT, TOKENS = list(range(1, 40)), (7, 8, 9)


def model_with(value: float, version: str, dtype: str) -> LanguageModel:
    """Return a random model, a tenth of the numbers of whose matrices are `value`."""
    config = ARCHITECTURES[version].complete(Config(architecture=version, d_model=128, num_layers=2, vocab_size=50))
    rng = np.random.default_rng(3)
    parameters = {}
    numbers = random_checkpoint(config)
    for spec in ARCHITECTURES[version].parameters(config):
        array = numbers[spec.name]
        stored = dtype if spec.kind == "matrix" else "f32"
        if spec.kind not in ("vector", "state"):
            array = np.where(rng.random(spec.shape) < 0.1, np.float32(value), array)
        parameters[spec.name] = Parameter(to_storage(array, "f32", stored), stored)
    return LanguageModel(config, parameters)


def run(model: LanguageModel) -> bytes:
    logits, state = model.forward(PROMPT, all_logits=True, num_threads=2)
    rows = [logits]
    for token in TOKENS:
        row, state = model.forward(token, state, num_threads=2)
        rows.append(row[np.newaxis])
    return np.concatenate(rows).tobytes() + state.data.tobytes()


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("version", sorted(ARCHITECTURES))
def test_subnormal_weights_give_the_logits_and_the_state_of_zeros(version: str, dtype: str) -> None:
    assert to_storage(np.array([1e-40], np.float32), "f32", dtype)[0] != 0
    expected = run(model_with(0, version, dtype))
    model = model_with(1e-40, version, dtype)
    for name in MODES:
        with mode(name) as word:
            found = run(model)
            after = current_mode()
        assert found == expected, name
        assert after & ~FLAGS == word
