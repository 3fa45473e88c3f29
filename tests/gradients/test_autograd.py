"""Gradients of language models against torch's automatic differentiation of the authors' equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv7_shapes import SMALL
from rwkv56_shapes import SMALL_5, SMALL_6
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

#: Relative to the largest value of the tensor.
TOLERANCE = {"f64": 1e-9, "f32": 2e-5}
CONFIGS = {**SMALL_5, **SMALL_6, **{f"7, {name}": config for name, config in SMALL.items()}}
LENGTHS = (19, 1, 4)


def parameters_of(config: Config, dtype: str) -> dict[str, npt.NDArray[Any]]:
    """Return parameters that are all used, in the range of trained ones: initial values leave many matrices at zero."""
    rng = np.random.default_rng(7)
    result = {}
    for name, parameter in LanguageModel.new(config, 0).parameters.items():
        scale = 0.3 if parameter.array.ndim == 1 else 0.5 / np.sqrt(parameter.array.shape[-1])
        noise = scale * rng.standard_normal(parameter.array.shape)
        result[name] = (parameter.array + noise).astype(np.float64 if dtype == "f64" else np.float32)
    return result


def fields_of(model: LanguageModel, data: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Return the fields of a state as tensors of each layer that are differentiated."""
    offsets = architecture_of(model.config).state_offsets(model.config)
    return [
        {
            field.name: torch.tensor(
                row[offsets[field.name] :][: field.size].reshape(field.shape).astype(np.float64), requires_grad=True
            )
            for field in model.encoder.state_fields
        }
        for row in data
    ]


def noise(state: State, rng: np.random.Generator) -> State:
    """Return a state of random numbers."""
    result = state.copy()
    result.data[...] = rng.standard_normal(state.data.shape)
    return result


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_states(name: str, dtype: str) -> None:
    from gradients import equations

    config = replace(CONFIGS[name], compute_dtype=dtype, rescale_layer=2, vocab_size=40)
    parameters = parameters_of(config, dtype)
    model = LanguageModel(config, parameters)
    rng = np.random.default_rng(5)
    tokens = [list(rng.integers(0, 40, length)) for length in LENGTHS]
    initial = [noise(model.initial_state(), rng) for _ in tokens]
    logits, after, tape = model.record(tokens, initial)
    d_logits = [rng.standard_normal(one.shape) for one in logits]
    d_states = [noise(one, rng) for one in after]
    gradients = tape.backward(d_logits, d_states)

    p = {key: torch.tensor(array.astype(np.float64), requires_grad=True) for key, array in parameters.items()}
    before = [fields_of(model, one.data) for one in initial]
    loss = torch.zeros((), dtype=torch.float64)
    for ids, start, d_logit, d_state in zip(tokens, before, d_logits, d_states, strict=True):
        fields = [dict(layer) for layer in start]
        loss = loss + (equations.logits(p, model.config, ids, fields) * torch.tensor(d_logit)).sum()
        for layer, d_layer in zip(fields, fields_of(model, d_state.data), strict=True):
            loss = loss + sum((layer[field] * d_layer[field]).sum() for field in layer)
    loss.backward()

    assert set(gradients.parameters) == set(parameters)
    for key, actual in gradients.parameters.items():
        expected = p[key].grad.numpy()
        assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max(), key
    for actual, start in zip(gradients.state, before, strict=True):
        expected = np.stack([np.concatenate([part.grad.numpy().ravel() for part in layer.values()]) for layer in start])
        assert np.abs(actual.data - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()
