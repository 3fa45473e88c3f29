"""State tuning against the same run in float64 NumPy: reference gradients, the formula of AdamW, the same sequences."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy import LanguageModel
from rwkv_cy.config import Config
from rwkv_cy.kernels.reference import rwkv7, rwkv7_gradient
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training import TrainingOptions, tune
from rwkv_cy.training.data import Batches, tokenize
from rwkv_cy.training.log import read_log
from rwkv_cy.training.schedule import learning_rate

Array = npt.NDArray[Any]
STEPS = 50
OPTIONS = TrainingOptions(
    steps=STEPS,
    batch_size=2,
    context=24,
    learning_rate=0.3,
    final_learning_rate=0.01,
    sampling="documents",
    weight_decay=0.0,
    seed=3,
)


@pytest.fixture
def instructions(tmp_path: Path) -> Path:
    path = tmp_path / "instructions.jsonl"
    pairs = [("sky", "blue"), ("grass", "green"), ("snow", "white"), ("coal", "black"), ("blood", "red")]
    texts = [f"Q: {thing}?\nA: {colour}" for thing, colour in pairs]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def model() -> LanguageModel:
    """Return a model with every parameter away from its neutral value."""
    config = Config(32, 2, vocab_size=256, architecture="rwkv7", head_size=16)
    rng = np.random.default_rng(1)
    parameters = {
        name: (value.array + 0.15 * rng.standard_normal(value.array.shape)).astype(np.float32)
        for name, value in LanguageModel.new(config, 2).parameters.items()
    }
    return LanguageModel(config, parameters, ByteTokenizer())


def loss_and_gradients(weights: dict[str, Array], config: Config, batch: list[Array]) -> tuple[float, list[Array]]:
    count = sum(sequence.size - 1 for sequence in batch)
    total, found = 0.0, [np.zeros(())] * config.num_layers
    for sequence in batch:
        logits, _ = rwkv7.forward(weights, config, sequence[:-1].tolist())
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        d = shifted / shifted.sum(axis=1, keepdims=True)
        places = np.arange(len(d))
        total -= float(np.log(d[places, sequence[1:]]).sum())
        d[places, sequence[1:]] -= 1
        best = logits.argmax(axis=1)
        d[places, best] += OPTIONS.l2wrap * logits[places, best]
        _, state = rwkv7.forward(weights, config, [0])
        d_state = [{name: np.zeros_like(array) for name, array in layer.items()} for layer in state]
        rwkv7_gradient.gradients(weights, config, sequence[:-1].tolist(), None, d / count, d_state)
        found = [own + layer["att_kv"] for own, layer in zip(found, d_state, strict=True)]
    return total / count, found


def test_the_loss_falls_as_in_float64(tmp_path: Path, instructions: Path, model: LanguageModel) -> None:
    report = tune(model, instructions, tmp_path / "state.pth", OPTIONS, method="state")
    losses = [record["loss"] for record in read_log(report.folder / "log.jsonl")]
    assert losses[-1] < losses[0] - 0.5

    (tmp_path / "reference").mkdir()
    data = tokenize([instructions], ByteTokenizer(), tmp_path / "reference")
    batches = Batches(data, sampling="documents", context=24, batch_size=2, seed=3, vocab_size=256)
    weights = {name: value.array.astype(np.float64) for name, value in model.parameters.items()}
    names = [f"blocks.{i}.att.time_state" for i in range(2)]
    weights |= {name: np.zeros((2, 16, 16)) for name in names}
    first, second = ([np.zeros((2, 16, 16)) for _ in names] for _ in range(2))
    for step, measured in enumerate(losses):
        loss, gradients = loss_and_gradients(weights, model.config, batches.batch(step))
        assert measured == pytest.approx(loss, rel=5e-5), f"step {step}"
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        rate = learning_rate(step, OPTIONS)
        for i, name in enumerate(names):
            g = gradients[i] * min(1.0, OPTIONS.clip / (norm + 1e-6))
            first[i] = OPTIONS.beta1 * first[i] + (1 - OPTIONS.beta1) * g
            second[i] = OPTIONS.beta2 * second[i] + (1 - OPTIONS.beta2) * g * g
            mean, square = first[i] / (1 - OPTIONS.beta1 ** (step + 1)), second[i] / (1 - OPTIONS.beta2 ** (step + 1))
            weights[name] = weights[name] - rate * mean / (np.sqrt(square) + OPTIONS.epsilon)
