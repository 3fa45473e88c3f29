"""The layer and mixes of RWKV-4 against the reference implementation, and against single steps."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.kernels import rwkv4, stack
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.kernels.reference import common, sigmoid
from rwkv_cy.kernels.reference import rwkv4 as reference
from rwkv_cy.model.state import LayerState, State
from rwkv_cy.tensors.tensor import Parameter

FIELDS = ("ffn_xx", "att_xx", "att_aa", "att_bb", "att_pp")


def make_layer(
    config: Config, index: int, parameters: dict[str, Parameter], scale: float, activations: str = "f32"
) -> stack.Layer:
    """Return a compiled layer."""
    architecture = ARCHITECTURES["rwkv4"]
    mixes = [
        make(config, index, parameters, scale, activations)
        for make in (architecture.time_mix, architecture.channel_mix)
    ]
    return stack.Layer(config, index, parameters, *mixes)


def forward(layer: stack.Layer, xs: np.ndarray, state: np.ndarray, workspace: Workspace, threads: int) -> None:
    """Run one sequence through one layer, its row of the state in place."""
    states = [state[np.newaxis]]
    stack.Stack([layer]).forward(xs, states, states, np.array([0, len(xs)], np.intp), workspace, threads)


class Case:
    """A layer with random weights, the reference's weights, and a state that some tokens have gone through."""

    def __init__(self, real: str, layer: int = 0, d_model: int = 20, d_att: int = 24, d_ffn: int = 37) -> None:
        self.rng = np.random.default_rng(7)
        self.config = Config(d_model=d_model, num_layers=2, d_att=d_att, d_ffn=d_ffn, compute_dtype=real)
        self.dtype = np.dtype(np.float64 if real == "f64" else np.float32)
        self.tolerance = 1e-12 if real == "f64" else 1e-5
        architecture = ARCHITECTURES["rwkv4"]
        self.weights = {
            spec.name: (self.rng.standard_normal(spec.shape) * 0.7).astype(self.dtype)
            for spec in architecture.layer_parameters(self.config, layer)
        }
        parameters = {name: Parameter(array, real) for name, array in self.weights.items()}
        self.layer = make_layer(self.config, layer, parameters, 0.5)
        self.time_mix = self.make(rwkv4.TimeMix, parameters, 0.5)
        self.channel_mix = self.make(rwkv4.ChannelMix, parameters, 0.5)
        self.fields = architecture.state_fields(self.config)
        self.reference_weights = {name: array.astype(np.float64) for name, array in self.weights.items()}

    def make(self, mix: type, parameters: dict[str, Parameter], scale: float) -> stack.Mix:
        return mix(self.config, ARCHITECTURES["rwkv4"].state_offsets(self.config), parameters, scale)

    def xs(self, tokens: int) -> np.ndarray:
        return self.rng.standard_normal((tokens, self.config.d_model)).astype(self.dtype)

    def state(self) -> LayerState:
        row = State.initial("rwkv4", self.fields, 1, self.config.compute_dtype).data[0]
        state = LayerState(self.fields, row)
        for name in ("ffn_xx", "att_xx", "att_aa", "att_bb", "att_pp"):
            state[name][...] = self.rng.standard_normal(state[name].shape)
        state["att_bb"][...] = np.abs(state["att_bb"]) + 0.1
        return state

    def reference_state(self, state: LayerState) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float64) for name, array in state.items()}

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        assert np.abs(actual - expected).max() <= self.tolerance * max(1.0, np.abs(expected).max())

    def assert_state_close(self, state: LayerState, expected_state: dict[str, np.ndarray]) -> None:
        for name in FIELDS:
            self.assert_close(state[name], expected_state[name])


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_time_mix_against_the_reference(isa: str, real: str, tokens: int) -> None:
    case = Case(real)
    xs, state = case.xs(tokens), case.state()
    expected_state = case.reference_state(state)
    y = case.time_mix.forward(xs, state.data)
    case.assert_close(y, 0.5 * reference.time_mix(xs.astype(np.float64), expected_state, case.reference_weights, {}))
    case.assert_state_close(state, expected_state)


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_channel_mix_against_the_reference(isa: str, real: str, tokens: int) -> None:
    case = Case(real)
    xs, state = case.xs(tokens), case.state()
    expected_state = case.reference_state(state)
    y = case.channel_mix.forward(xs, state.data)
    case.assert_close(y, 0.5 * reference.channel_mix(xs.astype(np.float64), expected_state, case.reference_weights, {}))
    case.assert_state_close(state, expected_state)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tokens", [1, 9, 40])
def test_layer_against_the_reference(isa: str, real: str, layer: int, tokens: int) -> None:
    case = Case(real, layer)
    xs, state = case.xs(tokens), case.state()
    expected_state = case.reference_state(state)
    expected = common.block(
        xs.astype(np.float64), expected_state, case.reference_weights, {}, reference.MIXES, 1e-5, output_scale=0.5
    )
    forward(case.layer, xs, state.data, Workspace(), 2)
    case.assert_close(xs, expected)
    case.assert_state_close(state, expected_state)


def test_sequence_equals_single_steps_to_the_last_bit(isa: str, real: str) -> None:
    case = Case(real, d_model=64, d_att=80, d_ffn=200)
    xs, state = case.xs(35), case.state()
    single_state, single = state.data.copy(), xs.copy()
    workspace = Workspace()
    for t in range(len(single)):
        forward(case.layer, single[t : t + 1], single_state, workspace, 1)
    for threads in (1, 2, 7):
        sequence, sequence_state = xs.copy(), state.data.copy()
        forward(case.layer, sequence, sequence_state, workspace, threads)
        assert sequence.tobytes() == single.tobytes()
        assert sequence_state.tobytes() == single_state.tobytes()


def test_decay_is_the_nearest_number_to_its_formula(isa: str, real: str) -> None:
    # From pp = 0, a key far below leaves pp = w = -exp(time_decay).
    case = Case(real, d_att=500)
    case.weights["att.key.weight"][...] = -1e6
    case.weights["att.time_mix_k"][...] = 1.0
    parameters = {name: Parameter(array, real) for name, array in case.weights.items()}
    state = case.state()
    state["att_pp"][...] = 0.0
    ones = np.ones((1, case.config.d_model), case.dtype)
    case.make(rwkv4.TimeMix, parameters, 1.0).forward(ones, state.data)
    expected = -np.exp(case.weights["att.time_decay"].astype(np.float64))
    assert (state["att_pp"] == expected.astype(case.dtype)).all()


def test_exp_to_two_units_in_the_last_place(isa: str) -> None:
    # From pp = 0 without decay and bb = 0, a key of 0 or less leaves bb = e^key.
    keys = np.concatenate([np.linspace(-90, 0, 20001), -(2.0 ** np.arange(-30, 7))]).astype(np.float32)
    case = Case("f32", d_model=1, d_att=keys.size, d_ffn=1)
    case.weights["att.key.weight"][:, 0] = keys
    case.weights["att.time_mix_k"][...] = 1.0
    case.weights["att.time_decay"][...] = -200.0
    parameters = {name: Parameter(array, "f32") for name, array in case.weights.items()}
    state = case.state()
    state["att_pp"][...] = state["att_bb"][...] = 0.0
    case.make(rwkv4.TimeMix, parameters, 1.0).forward(np.ones((1, 1), np.float32), state.data)
    expected = np.exp(keys.astype(np.float64))
    units = np.abs(state["att_bb"] - expected) / np.spacing(expected.astype(np.float32))
    assert units[keys >= -87].max() <= 2
    assert (state["att_bb"][keys < -87] == 0).all()


def test_sigmoid_at_both_ends(isa: str) -> None:
    values = np.concatenate([np.linspace(-120, 120, 481), [-np.inf, -3e38, 3e38, np.inf, np.nan]]).astype(np.float32)
    # The hidden vector is 1 and the value matrix too, so that the gate is what comes out.
    case = Case("f32", d_model=values.size, d_ffn=1)
    for name, array in case.weights.items():
        if name.startswith("ffn."):
            array[...] = 1.0 if name != "ffn.key.weight" else 0.0
    case.weights["ffn.key.weight"][0, 0] = 1.0
    case.weights["ffn.receptance.weight"][...] = 0.0
    case.weights["ffn.receptance.weight"][:, 0] = values
    parameters = {name: Parameter(array, "f32") for name, array in case.weights.items()}
    x = np.zeros((1, values.size), np.float32)
    x[0, 0] = 1.0
    y = case.make(rwkv4.ChannelMix, parameters, 1.0).forward(x, np.zeros(case.time_mix.state_size, np.float32))[0]
    finite = values[:-1]
    expected = sigmoid(finite.astype(np.float64))
    tiny = np.finfo(np.float32).tiny  # e^88 and more count as infinite
    assert (np.abs(y[:-1] - expected) <= 4 * np.spacing(expected.astype(np.float32)) + tiny).all()
    assert np.isnan(y[-1])


def test_extreme_keys_do_not_overflow(isa: str, real: str) -> None:
    case = Case(real)
    case.weights["att.key.weight"] *= 200
    case.reference_weights["att.key.weight"] *= 200
    parameters = {name: Parameter(array, real) for name, array in case.weights.items()}
    xs, state = case.xs(30), case.state()
    expected_state = case.reference_state(state)
    y = case.make(rwkv4.TimeMix, parameters, 1.0).forward(xs, state.data)
    expected = reference.time_mix(xs.astype(np.float64), expected_state, case.reference_weights, {})
    assert np.isfinite(y).all()
    # Keys of about 1,000 have an absolute error of 1e-4 in float32, and e^k has it as its relative error.
    assert np.abs(y - expected).max() <= (1e-9 if real == "f64" else 1e-2) * np.abs(expected).max()


def test_nan_passes_through(isa: str) -> None:
    case = Case("f32")
    xs = case.xs(5)
    xs[2, 3] = np.nan
    forward(case.layer, xs, case.state().data, Workspace(), 1)
    assert np.isfinite(xs[:2]).all()
    assert np.isnan(xs[2:]).any(axis=1).all()


def test_nan_passes_through_the_squared_relu(isa: str, real: str) -> None:
    case = Case(real)
    case.weights["ffn.key.weight"][3] = np.nan
    parameters = {name: Parameter(array, real) for name, array in case.weights.items()}
    y = case.make(rwkv4.ChannelMix, parameters, 1.0).forward(case.xs(2), case.state().data)
    assert np.isnan(y).all()


def test_every_tensor_matters(real: str) -> None:
    case = Case(real)
    xs, state = case.xs(3), case.state().data

    def run(weights: dict[str, np.ndarray]) -> np.ndarray:
        parameters = {name: Parameter(array, real) for name, array in weights.items()}
        out = xs.copy()
        forward(make_layer(case.config, 0, parameters, 1.0), out, state.copy(), Workspace(), 1)
        return out

    usual = run(case.weights)
    for name, array in case.weights.items():
        moved = dict(case.weights)
        moved[name] = array + array.dtype.type(0.05)
        assert np.abs(run(moved) - usual).max() > 1e-4, name
