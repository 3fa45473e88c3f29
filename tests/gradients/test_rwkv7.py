"""Gradients of the layers of RWKV-7 against the reference implementation, and the reference against differences."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv7_shapes import SMALL
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.kernels.reference import rwkv7, rwkv7_gradient
from rwkv_cy.kernels.reference.gradients import layer_norm_gradient
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State

Array = npt.NDArray[Any]

#: Relative to the largest value of the tensor.
TOLERANCE = {"f32": 2e-5, "f64": 1e-11}
TIME = 20  # more than a segment of the WKV
#: Of the last LayerNorm and the vocabulary, which an encoder does not have.
OUTSIDE = {"emb.weight", "ln_out.weight", "ln_out.bias", "head.weight"}


class Case:
    """A model with random parameters, tokens, a state, and gradients of its results."""

    def __init__(self, config: Config, dtype: str = "f64") -> None:
        rng = np.random.default_rng(7)
        config = replace(config, vocab_size=30, compute_dtype=dtype, rescale_layer=2)
        self.config = architecture_of(config).complete(config)
        real = np.dtype(np.float64 if dtype == "f64" else np.float32)
        self.parameters = {
            spec.name: (0.3 * rng.normal(size=spec.shape)).astype(real)
            for spec in architecture_of(config).parameters(self.config)
            if not spec.optional
        }
        self.tokens = rng.integers(0, config.vocab_size, TIME)
        logits, fields = rwkv7.forward(self.parameters, self.config, self.tokens)
        self.d_logits = rng.normal(size=logits.shape)
        self.state, self.d_state = (
            [{name: rng.normal(size=array.shape).astype(real) for name, array in layer.items()} for layer in fields]
            for _ in range(2)
        )

    def loss(self, parameters: dict[str, Array], state: list[dict[str, Array]]) -> float:
        logits, after = rwkv7.forward(parameters, self.config, self.tokens, copy.deepcopy(state))
        total = (logits * self.d_logits).sum()
        for layer, d in zip(after, self.d_state, strict=True):
            total += sum((layer[name] * d[name]).sum() for name in d)
        return float(total)

    def expected(self) -> tuple[dict[str, Array], list[dict[str, Array]]]:
        """Return the reference's gradients of the parameters and of the state."""
        d_state = copy.deepcopy(self.d_state)
        gradients = rwkv7_gradient.gradients(
            self.parameters, self.config, self.tokens, self.state, self.d_logits, d_state
        )
        return gradients, d_state

    def model(self) -> LanguageModel:
        return LanguageModel(self.config, self.parameters)

    def filled(self, like: State, fields: list[dict[str, Array]]) -> State:
        """Return a copy of a State with these numbers."""
        state = copy.deepcopy(like)
        offsets = architecture_of(self.config).state_offsets(self.config)
        for row, layer in zip(state.data, fields, strict=True):
            for name, array in layer.items():
                row[offsets[name] : offsets[name] + array.size] = array.reshape(-1)
        return state

    def d_outputs(self, outputs: Array) -> Array:
        """Return the gradient of the encoder's outputs, through the last LayerNorm and the head."""
        p = {name: array.astype(np.float64) for name, array in self.parameters.items()}
        through = self.d_logits @ p["head.weight"]
        d, _, _ = layer_norm_gradient(
            outputs.astype(np.float64), p["ln_out.weight"], self.config.layer_norm_eps, through
        )
        return d.astype(outputs.dtype)


def difference(loss: Any, step: float = 1e-5) -> float:
    """Return the derivative of a function at 0 by central differences of fourth order."""
    return (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step)


def assert_close(actual: Array, expected: Array, tolerance: float, name: str) -> None:
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max(), name


@pytest.mark.parametrize("name", ["one layer", "odd heads, odd widths"])
def test_the_reference_agrees_with_central_differences(name: str) -> None:
    case = Case(SMALL[name])
    gradients, d_state = case.expected()
    assert set(gradients) == set(case.parameters)
    rng = np.random.default_rng(1)
    for which, gradient in gradients.items():
        along = rng.normal(size=gradient.shape)
        expected = difference(
            lambda h, which=which, along=along: case.loss(
                {**case.parameters, which: case.parameters[which] + h * along}, case.state
            )
        )
        assert (gradient * along).sum() == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(gradient).max()), which
    for i, layer in enumerate(d_state):
        for field, gradient in layer.items():
            along = rng.normal(size=gradient.shape)

            def loss(h: float, i: int = i, field: str = field, along: Array = along) -> float:
                state = copy.deepcopy(case.state)
                state[i][field] = state[i][field] + h * along
                return case.loss(case.parameters, state)

            assert (gradient * along).sum() == pytest.approx(difference(loss), rel=1e-6), (i, field)


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_the_layers(name: str, dtype: str, memory: int | None) -> None:
    case = Case(SMALL[name], dtype)
    encoder = case.model().encoder
    initial = case.filled(encoder.initial_state(), case.state)
    outputs, after, tape = encoder.record(case.parameters["emb.weight"][case.tokens], initial, memory=memory)
    gradients = tape.backward(case.d_outputs(outputs), case.filled(after, case.d_state))
    expected, d_state = case.expected()
    assert set(gradients.parameters) == set(expected) - OUTSIDE
    for which, gradient in gradients.parameters.items():
        assert_close(gradient, expected[which], TOLERANCE[dtype], which)
    assert_close(gradients.state.data, case.filled(after, d_state).data, TOLERANCE[dtype], "state")


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    case = Case(SMALL["heads of 64"], "f32")
    encoder = case.model().encoder
    embedded = case.parameters["emb.weight"][case.tokens]
    xs = [embedded, embedded[:7], embedded[5:]]
    outputs, _, tape = encoder.record(xs)
    one, three = (tape.backward(outputs, num_threads=threads) for threads in (1, 3))
    for name, gradient in one.parameters.items():
        np.testing.assert_array_equal(gradient, three.parameters[name], err_msg=name)
    for first, second in zip(one.inputs, three.inputs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_batch_gives_the_sum_of_its_sequences() -> None:
    case = Case(SMALL["odd ranks"])
    encoder = case.model().encoder
    embedded = case.parameters["emb.weight"][case.tokens]
    xs = [embedded, embedded[:1], embedded[3:17]]
    outputs, _, tape = encoder.record(xs)
    together = tape.backward(outputs)
    alone = [encoder.record(x)[2].backward(y) for x, y in zip(xs, outputs, strict=True)]
    for name, gradient in together.parameters.items():
        assert_close(gradient, sum(one.parameters[name] for one in alone), 1e-12, name)
    for actual, one in zip(together.state, alone, strict=True):
        assert_close(actual.data, one.state.data, 1e-12, "state")
