"""Gradients of every version by central differences of inference, which has other code than a recorded pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.cases import CONFIGS
from gradients.test_adapters import adapters_of
from gradients.test_language_model import close, floats, random_parameters
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State

TOKENS = 19  # more than a segment of the WKV
VERSIONS = ("rwkv5.0", "rwkv5.1", "rwkv5.2", "rwkv6", "rwkv7", "rwkv7a", "rwkv8_rc00")


class Case:
    """A model, tokens, a state, and a loss that is linear in logits and state."""

    def __init__(self, name: str) -> None:
        config = replace(CONFIGS[name], compute_dtype="f64")
        self.config = architecture_of(config).complete(config)
        self.parameters = random_parameters(config)
        self.model = LanguageModel(config, self.parameters, fingerprint="x")
        rng = np.random.default_rng(5)
        self.tokens = rng.integers(0, config.vocab_size, TOKENS)
        _, self.initial = self.model.forward([9, 8, 7])
        self.d_state = self.initial.copy()
        self.d_state.data[...] = rng.standard_normal(self.d_state.data.shape)
        self.d_logits = rng.standard_normal((TOKENS, config.vocab_size))

    def loss(self, parameters: dict[str, np.ndarray], initial: State) -> float:
        model = LanguageModel(self.config, parameters, fingerprint="x")
        logits, after = model.forward(self.tokens, initial, all_logits=True)
        return float((logits * self.d_logits).sum() + (after.data * self.d_state.data).sum())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_state(name: str) -> None:
    case = Case(name)
    _, _, tape = case.model.record(case.tokens, case.initial)
    gradients = tape.backward(case.d_logits, case.d_state)
    assert set(gradients.parameters) == set(case.parameters)
    rng = np.random.default_rng(1)

    def check(which: str, gradient: np.ndarray, loss: Callable[[np.ndarray], float]) -> None:
        along = rng.standard_normal(gradient.shape)
        step = 1e-5 / np.linalg.norm(along)
        expected = (loss(step * along) - loss(-step * along)) / (2 * step)
        scale = np.linalg.norm(gradient) * np.linalg.norm(along)
        assert scale > 0, which
        assert abs((gradient * along).sum() - expected) <= 1e-6 * scale, which

    for which, gradient in gradients.parameters.items():
        own = case.parameters[which]
        check(which, gradient, lambda d, w=which, p=own: case.loss({**case.parameters, w: p + d}, case.initial))

    def moved(d: np.ndarray) -> float:
        initial = case.initial.copy()
        initial.data[...] += d
        return case.loss(case.parameters, initial)

    check("state", gradients.state.data, moved)


@pytest.mark.parametrize("name", ["rwkv7a", "rwkv8_rc00"])
def test_tables_of_tokens(name: str) -> None:
    """Segments and threads do not matter, rows that were not read get zeros, and vectors need their tokens."""
    case = Case(name)
    _, _, tape = case.model.record(case.tokens, case.initial)
    whole = tape.backward(case.d_logits, case.d_state, num_threads=1)
    _, _, tape = case.model.record(case.tokens, case.initial, memory=0)
    parts = tape.backward(case.d_logits, case.d_state, num_threads=3)
    for which, gradient in whole.parameters.items():
        assert np.abs(gradient - parts.parameters[which]).max() <= 1e-11 * np.abs(gradient).max(), which
    unread = np.setdiff1d(np.arange(case.config.vocab_size), case.tokens)
    tables = [array for which, array in whole.parameters.items() if which.endswith(("s_emb.weight", "enn.weight"))]
    assert len(tables) == case.config.num_layers
    for table in tables:
        assert not table[unread].any()
        assert table[case.tokens].any(axis=1).all()
    xs = np.ones((3, case.config.d_model))
    with pytest.raises(ConfigError, match="tokens: expected one for each of the 3 vectors"):
        case.model.encoder.record(xs)
    with pytest.raises(ConfigError, match="tokens: expected 2 sequences of them, got 1"):
        case.model.encoder.record([xs, xs], tokens=[[1, 2, 3]])
    ys, _, tape = case.model.encoder.record(xs, tokens=[1, 2, 3])
    np.testing.assert_array_equal(ys, case.model.encoder.forward_sequence(xs, tokens=[1, 2, 3])[0])
    assert np.isfinite(tape.backward(ys).inputs).all()


@pytest.mark.parametrize("dtype", ["q8", "bf16"])
@pytest.mark.parametrize("architecture", VERSIONS)
def test_frozen_weights_of_a_stored_precision(architecture: str, dtype: str, tmp_path: Path) -> None:
    """Vectors, inputs, factors of adapters and the initial state, against float64 with the same weights."""
    config = Config(64, 2, vocab_size=96, architecture=architecture, head_size=32)
    rng = np.random.default_rng(9)
    scaled = {
        name: 0.3 / np.sqrt(parameter.array.shape[-1] if parameter.array.ndim > 1 else 1)
        for name, parameter in LanguageModel.new(config, 0).parameters.items()
    }
    numbers = {
        name: (parameter.array + scaled[name] * rng.standard_normal(parameter.array.shape)).astype(np.float32)
        for name, parameter in LanguageModel.new(config, 0).parameters.items()
    }
    LanguageModel(config, numbers).save(tmp_path / "model.h5")
    small = load(tmp_path / "model.h5", dtype=dtype)
    wide = {name: floats(parameter) for name, parameter in small.parameters.items()}
    exact = LanguageModel(replace(small.config, compute_dtype="f64"), wide)
    matrices = [name for name in wide if name.endswith(("att.key.weight", "ffn.value.weight"))]
    assert {small.parameters[name].dtype for name in matrices} == {dtype}
    shapes = {name: wide[name].shape for name in matrices}
    tokens, targets = rng.integers(0, 96, (2, 40))
    vectors = [name for name, parameter in small.parameters.items() if parameter.dtype != "q8"]
    found = []
    for model, real in ((small, np.float32), (exact, np.float64)):
        _, _, tape = model.record(tokens, logits=False, trainable=vectors)
        losses, gradients = tape.cross_entropy(targets)
        _, _, tape = model.record(tokens, logits=False, adapters=adapters_of(shapes, real))
        _, factors = tape.cross_entropy(targets)
        assert len(factors.parameters) == 2 * len(matrices)
        parts = {**gradients.parameters, **factors.parameters, "inputs": gradients.inputs}
        found.append((losses, {**parts, "state": gradients.state.data}))
    (losses, actual), (expected_losses, expected) = found
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0, name
        assert close(actual[name], gradient, 1e-4), name
