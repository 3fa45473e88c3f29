"""Outputs, states and layers of upstream, computed by running it, which Model must reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_cy.config import Config
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.kernels.stack import Stack
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.state import State
from rwkv_cy.tensors.tensor import Parameter

#: Relative to the largest value of the tensor. "f64mixed" is the seed's float64 model with a float32 state.
TOLERANCE = {"f32": 2e-6, "f64": 1e-13, "f64mixed": 2e-6}

NAMES = {
    "ln0": "LN0",
    "ln1": "LN1",
    "ln2": "LN2",
    "att.key.weight": "TimeMix.Key",
    "att.value.weight": "TimeMix.Value",
    "att.receptance.weight": "TimeMix.Receptance",
    "att.output.weight": "TimeMix.Output",
    "att.time_decay": "TimeMix.TimeDecay",
    "att.time_first": "TimeMix.TimeFirst",
    "att.time_mix_k": "TimeMix.TimeMixK",
    "att.time_mix_v": "TimeMix.TimeMixV",
    "att.time_mix_r": "TimeMix.TimeMixR",
    "ffn.key.weight": "ChanMix.Key",
    "ffn.value.weight": "ChanMix.Value",
    "ffn.receptance.weight": "ChanMix.Receptance",
    "ffn.time_mix_k": "ChanMix.TimeMixK",
    "ffn.time_mix_r": "ChanMix.TimeMixR",
}


class Vectors:
    """One file of vectors, and the model that it describes in one precision."""

    def __init__(self, path: Path, prefix: str) -> None:
        with np.load(path) as arrays:
            self._arrays = dict(arrays)
        self.prefix = prefix
        self.config = Config(
            d_model=int(self._arrays["d_model"]),
            num_layers=int(self._arrays["num_layers"]),
            rescale_layer=int(self._arrays["rescale_layer"]),
            layer_norm_eps=float(self._arrays["eps"]),
            compute_dtype=prefix[:3],
        )
        self.model = Model(self.config, self.parameters())

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def expected(self, name: str) -> np.ndarray:
        return self._arrays[f"{self.prefix}_{name}"]

    def parameters(self) -> dict[str, Any]:
        result = {}
        for layer in range(self.config.num_layers):
            for ours, theirs in NAMES.items():
                stored = f"param_Layers.{layer}.{theirs}"
                if ours.startswith("ln"):
                    result[f"blocks.{layer}.{ours}.weight"] = self[f"{stored}.W"]
                    result[f"blocks.{layer}.{ours}.bias"] = self[f"{stored}.B"]
                    continue
                array = self[stored].astype(np.float64)
                if ours == "att.time_decay":  # stored as -exp(time_decay)
                    array = np.log(-array)
                if "time_mix" in ours:
                    array = array.reshape(1, 1, -1)
                result[f"blocks.{layer}.{ours}"] = Parameter(array, "f64")
        return result

    def state(self, data: np.ndarray) -> State:
        """Return a state of [layers, 5, d_model] numbers."""
        state = self.model.initial_state()
        state.data[...] = data.reshape(state.data.shape)
        return state

    def step(self, x: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        y, state = self.model.forward_single(x, state)
        if self.prefix == "f64mixed":  # its state is float32: rounded after every token
            state.data[...] = state.data.astype(np.float32)
        return y, state

    def assert_close(self, actual: np.ndarray, name: str) -> None:
        expected = self.expected(name)
        error = np.abs(actual.reshape(expected.shape).astype(np.float64) - expected).max()
        assert error <= TOLERANCE[self.prefix] * np.abs(expected).max()

    def assert_state_close(self, actual: np.ndarray, name: str) -> None:
        # The inputs kept for the token shift each have their own range; aa and bb are sums of e^(k - pp), whose
        # relative error is the absolute error of pp, so the three are held against their common largest value.
        expected = self.expected(name)
        actual = actual.reshape(expected.shape).astype(np.float64)
        for fields in ([0], [1], [2, 3, 4]):
            error = np.abs(actual[..., fields, :] - expected[..., fields, :]).max()
            assert error <= TOLERANCE[self.prefix] * np.abs(expected[..., fields, :]).max()


@pytest.fixture(scope="module", params=["tiny", "noscale", "extreme"])
def file(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["f32", "f64"])
def vectors(shared: Path, file: str, request: pytest.FixtureRequest) -> Vectors:
    return Vectors(shared / "vectors" / f"{file}.npz", str(request.param))


@pytest.fixture(scope="module", params=["f32", "f64", "f64mixed"])
def stepped(shared: Path, file: str, request: pytest.FixtureRequest) -> Vectors:
    return Vectors(shared / "vectors" / f"{file}.npz", str(request.param))


def test_single_steps_and_every_state(stepped: Vectors) -> None:
    state = None
    outputs, states = [], []
    for x in stepped["inputs"]:
        y, state = stepped.step(x, state)
        outputs.append(y)
        states.append(state.data.copy())
    stepped.assert_close(np.array(outputs), "out_single")
    stepped.assert_state_close(np.array(states), "state_steps")
    stepped.assert_state_close(states[-1], "state_single")


def test_sequence(vectors: Vectors) -> None:
    ys, state = vectors.model.forward_sequence(vectors["inputs"])
    vectors.assert_close(ys, "out_seq")
    vectors.assert_state_close(state.data, "state_seq")


def test_split_sequence(vectors: Vectors) -> None:
    split = int(vectors["split"])
    first, state = vectors.model.forward_sequence(vectors["inputs"][:split])
    rest, state = vectors.model.forward_sequence(vectors["inputs"][split:], state)
    vectors.assert_close(np.concatenate([first, rest]), "out_split")
    vectors.assert_state_close(state.data, "state_split")


def test_from_a_given_state(vectors: Vectors) -> None:
    ys, state = vectors.model.forward_sequence(vectors["inputs"], vectors.state(vectors["state0"]))
    vectors.assert_close(ys, "out_from_state0")
    vectors.assert_state_close(state.data, "state_from_state0")


def test_every_layer(vectors: Vectors) -> None:
    xs = vectors["inputs"].astype(np.float64 if vectors.prefix == "f64" else np.float32)
    kernels = [layer.kernel for layer in vectors.model.layers]
    outputs = []
    for count in range(1, len(kernels) + 1):
        x, state = xs.copy(), vectors.model.initial_state().data[:count]
        Stack(kernels[:count]).forward(x, [state], [state], np.array([0, len(x)], np.intp), Workspace(), 1)
        outputs.append(x)
    vectors.assert_close(np.array(outputs), "layer_out")
