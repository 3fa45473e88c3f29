"""The layer of RWKV-4 and its two mixes, against their twins and against themselves one token at a time."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.dtypes import QUANTIZED_TYPES, to_storage
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import rwkv4
from rwkv_cy.kernels.matrix import Workspace, pack
from rwkv_cy.kernels.reference import common, sigmoid
from rwkv_cy.kernels.reference import rwkv4 as reference
from rwkv_cy.model.state import LayerState, State
from rwkv_cy.tensors.tensor import Parameter

FIELDS = ("ffn_xx", "att_xx", "att_aa", "att_bb", "att_pp")


def forward(layer: rwkv4.Layer, xs: np.ndarray, state: np.ndarray, workspace: Workspace, threads: int) -> None:
    """Run one sequence through one layer."""
    rwkv4.Stack([layer]).forward(xs, state[np.newaxis, np.newaxis], np.array([0, len(xs)], np.intp), workspace, threads)


class Case:
    """A layer with random weights, its twin's weights, and a state that some tokens have gone through."""

    def __init__(self, real: str, layer: int = 0, d_model: int = 20, d_att: int = 24, d_ffn: int = 37) -> None:
        self.rng = np.random.default_rng(7)
        self.config = Config(d_model=d_model, num_layers=2, d_att=d_att, d_ffn=d_ffn, dtype=real)
        self.dtype = np.dtype(np.float64 if real == "f64" else np.float32)
        self.tolerance = 1e-12 if real == "f64" else 1e-5
        architecture = ARCHITECTURES["rwkv4"]
        self.weights = {
            spec.name: (self.rng.standard_normal(spec.shape) * 0.7).astype(self.dtype)
            for spec in architecture.layer_parameters(self.config, layer)
        }
        parameters = {name: Parameter(array, real) for name, array in self.weights.items()}
        self.layer = rwkv4.Layer(self.config, layer, parameters, 0.5)
        self.time_mix = rwkv4.TimeMix(self.config, parameters, 0.5)
        self.channel_mix = rwkv4.ChannelMix(self.config, parameters, 0.5)
        self.fields = architecture.state_fields(self.config)
        self.twin_weights = {name: array.astype(np.float64) for name, array in self.weights.items()}

    def xs(self, tokens: int) -> np.ndarray:
        return self.rng.standard_normal((tokens, self.config.d_model)).astype(self.dtype)

    def state(self) -> LayerState:
        row = State.initial("rwkv4", self.fields, 1, self.config.dtype).data[0]
        state = LayerState(self.fields, row)
        for name in ("ffn_xx", "att_xx", "att_aa", "att_bb", "att_pp"):
            state[name][...] = self.rng.standard_normal(state[name].shape)
        state["att_bb"][...] = np.abs(state["att_bb"]) + 0.1
        return state

    def twin_state(self, state: LayerState) -> dict[str, np.ndarray]:
        return {name: array.astype(np.float64) for name, array in state.items()}

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        assert np.abs(actual - expected).max() <= self.tolerance * max(1.0, np.abs(expected).max())

    def assert_state_close(self, state: LayerState, twin: dict[str, np.ndarray]) -> None:
        for name in FIELDS:
            self.assert_close(state[name], twin[name])


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_time_mix_against_the_twin(isa: str, real: str, tokens: int) -> None:
    case = Case(real)
    xs, state = case.xs(tokens), case.state()
    twin = case.twin_state(state)
    y = case.time_mix.forward(xs, *(state[name] for name in FIELDS[1:]))
    case.assert_close(y, 0.5 * reference.time_mix(xs.astype(np.float64), twin, case.twin_weights, {}))
    case.assert_state_close(state, twin)


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_channel_mix_against_the_twin(isa: str, real: str, tokens: int) -> None:
    case = Case(real)
    xs, state = case.xs(tokens), case.state()
    twin = case.twin_state(state)
    y = case.channel_mix.forward(xs, state["ffn_xx"])
    case.assert_close(y, 0.5 * reference.channel_mix(xs.astype(np.float64), twin, case.twin_weights, {}))
    case.assert_state_close(state, twin)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tokens", [1, 9, 40])
def test_layer_against_the_twin(isa: str, real: str, layer: int, tokens: int) -> None:
    case = Case(real, layer)
    xs, state = case.xs(tokens), case.state()
    twin = case.twin_state(state)
    expected = common.block(xs.astype(np.float64), twin, case.twin_weights, {}, reference.MIXES, 1e-5, output_scale=0.5)
    forward(case.layer, xs, state.data, Workspace(), 2)
    case.assert_close(xs, expected)
    case.assert_state_close(state, twin)


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
    rwkv4.TimeMix(case.config, parameters, 1.0).forward(ones, *(state[name] for name in FIELDS[1:]))
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
    rwkv4.TimeMix(case.config, parameters, 1.0).forward(np.ones((1, 1), np.float32), *(state[n] for n in FIELDS[1:]))
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
    y = rwkv4.ChannelMix(case.config, parameters, 1.0).forward(x, np.zeros(values.size, np.float32))[0]
    finite = values[:-1]
    expected = sigmoid(finite.astype(np.float64))
    tiny = np.finfo(np.float32).tiny  # e^88 and more count as infinite
    assert (np.abs(y[:-1] - expected) <= 4 * np.spacing(expected.astype(np.float32)) + tiny).all()
    assert np.isnan(y[-1])


def test_extreme_keys_do_not_overflow(isa: str, real: str) -> None:
    case = Case(real)
    case.weights["att.key.weight"] *= 200
    case.twin_weights["att.key.weight"] *= 200
    parameters = {name: Parameter(array, real) for name, array in case.weights.items()}
    xs, state = case.xs(30), case.state()
    twin = case.twin_state(state)
    y = rwkv4.TimeMix(case.config, parameters, 1.0).forward(xs, *(state[name] for name in FIELDS[1:]))
    expected = reference.time_mix(xs.astype(np.float64), twin, case.twin_weights, {})
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
    y = rwkv4.ChannelMix(case.config, parameters, 1.0).forward(case.xs(2), case.state()["ffn_xx"])
    assert np.isnan(y).all()


def test_every_tensor_matters(real: str) -> None:
    case = Case(real)
    xs, state = case.xs(3), case.state().data

    def run(weights: dict[str, np.ndarray]) -> np.ndarray:
        parameters = {name: Parameter(array, real) for name, array in weights.items()}
        out = xs.copy()
        forward(rwkv4.Layer(case.config, 0, parameters, 1.0), out, state.copy(), Workspace(), 1)
        return out

    usual = run(case.weights)
    for name, array in case.weights.items():
        moved = dict(case.weights)
        moved[name] = array + array.dtype.type(0.05)
        assert np.abs(run(moved) - usual).max() > 1e-4, name


def test_what_is_refused() -> None:
    case = Case("f32")
    state, workspace = case.state(), Workspace()
    with pytest.raises(KernelError, match=r"Stack: expected x \(tokens, 20\) and states \(1, sequences, 112\), got"):
        forward(case.layer, np.zeros((1, 8), np.float32), state.data, workspace, 1)
    with pytest.raises(KernelError, match="Stack: expected numbers of 4 bytes, got 8"):
        forward(case.layer, np.zeros((1, 20)), state.data.astype(np.float64), workspace, 1)
    with pytest.raises(KernelError, match="Stack: expected contiguous rows of states, got a stride of 8"):
        forward(case.layer, case.xs(1), np.zeros(224, np.float32)[::2], workspace, 1)
    rest = [state[name] for name in FIELDS[1:]]
    with pytest.raises(KernelError, match=r"TimeMix: expected \(tokens, 20\), got \(1, 8\)"):
        case.time_mix.forward(np.zeros((1, 8), np.float32), *rest)
    with pytest.raises(KernelError, match="TimeMix: expected a state of width 24, got 23"):
        case.time_mix.forward(np.zeros((1, 20), np.float32), rest[0], rest[1][:23], *rest[2:])
    with pytest.raises(KernelError, match="TimeMix: expected numbers of 4 bytes, got 8"):
        case.time_mix.forward(np.zeros((1, 20)), *(a.astype(np.float64) for a in rest))
    with pytest.raises(KernelError, match=r"ChannelMix: expected \(tokens, 20\), got \(1, 8\)"):
        case.channel_mix.forward(np.zeros((1, 8), np.float32), state["ffn_xx"])
    with pytest.raises(KernelError, match="ChannelMix: expected numbers of 4 bytes, got 8"):
        case.channel_mix.forward(np.zeros((1, 20)), state["ffn_xx"].astype(np.float64))
    with pytest.raises(KernelError, match="Stack: expected at least one thread, got 0"):
        forward(case.layer, np.zeros((9, 20), np.float32), state.data, workspace, 0)
    with pytest.raises(KernelError, match="TimeMix: expected at least one thread, got -1"):
        case.time_mix.forward(np.zeros((9, 20), np.float32), *rest, -1)
    with pytest.raises(KernelError, match="ChannelMix: expected at least one thread, got 0"):
        case.channel_mix.forward(np.zeros((9, 20), np.float32), state["ffn_xx"], 0)
    with pytest.raises(TypeError, match="Argument 'workspace' has incorrect type"):
        forward(case.layer, np.zeros((9, 20), np.float32), state.data, None, 1)


def test_sequences_side_by_side_equal_each_alone(isa: str, real: str) -> None:
    case = Case(real, d_model=64, d_att=80, d_ffn=200)
    lengths = [1, 7, 30, 1, 2]
    parts, states = [case.xs(n) for n in lengths], [case.state().data for _ in lengths]
    stack, workspace = rwkv4.Stack([case.layer]), Workspace()
    alone, alone_states = [part.copy() for part in parts], [state.copy() for state in states]
    for part, state in zip(alone, alone_states, strict=True):
        forward(case.layer, part, state, workspace, 1)
    for threads in (1, 3):
        xs, rows = np.concatenate(parts), np.array(states)
        stack.forward(xs, rows[np.newaxis], np.cumsum([0, *lengths], dtype=np.intp), workspace, threads)
        assert xs.tobytes() == np.concatenate(alone).tobytes()
        assert rows.tobytes() == np.array(alone_states).tobytes()


def test_matrices_of_several_kinds_in_one_layer(isa: str) -> None:
    # Products that share an operation go by rows, columns, groups and panels, with and without rounding.
    lengths = [1, 30, 1, 1, 7]
    kinds = [
        ("f32", False),
        ("bf16", True),
        ("q8", False),
        ("q4", False),
        ("bf16", False),
        ("f16", True),
        ("f32", True),
    ]
    case = Case("f32", d_model=65, d_att=100, d_ffn=200)
    matrices = [name for name, array in case.weights.items() if name.endswith(".weight") and array.ndim == 2]
    assert len(matrices) == len(kinds)
    for turn in range(len(kinds)):
        parameters = {name: Parameter(array, "f32") for name, array in case.weights.items()}
        for name, (kind, transposed) in zip(matrices, kinds[turn:] + kinds[:turn], strict=True):
            array = case.weights[name]
            if kind in QUANTIZED_TYPES:
                parameters[name] = Parameter(pack(array, kind), kind, array.shape)
            else:
                stored = to_storage(np.ascontiguousarray(array.T) if transposed else array, "f32", kind)
                parameters[name] = Parameter(stored, kind, transposed=transposed)
        stack = rwkv4.Stack([rwkv4.Layer(case.config, 0, parameters, 0.5, "bf16")])
        for some in (lengths[2:], lengths, [1] * 12):
            starts, workspace = np.cumsum([0, *some], dtype=np.intp), Workspace()
            xs, states = case.xs(sum(some)), np.array([[case.state().data for _ in some]])
            single, single_states = xs.copy(), states.copy()
            for i in range(len(some)):
                for t in range(starts[i], starts[i + 1]):
                    stack.forward(
                        single[t : t + 1], single_states[:, i : i + 1], np.array([0, 1], np.intp), workspace, 1
                    )
            for threads in (1, 3):
                many, moved = xs.copy(), states.copy()
                stack.forward(many, moved, starts, workspace, threads)
                assert many.tobytes() == single.tobytes()
                assert moved.tobytes() == single_states.tobytes()


def test_a_stack_equals_its_layers_one_by_one(isa: str, real: str) -> None:
    first, second = Case(real, 0, d_model=64, d_att=80, d_ffn=200), Case(real, 1, d_model=64, d_att=80, d_ffn=200)
    stack = rwkv4.Stack([first.layer, second.layer])
    states = np.array([first.state().data, second.state().data])
    for tokens in (1, 9):
        xs, one_by_one = first.xs(tokens), states.copy()
        expected = xs.copy()
        for case, state in zip((first, second), one_by_one, strict=True):
            forward(case.layer, expected, state, Workspace(), 1)
        for threads in (1, 2, 3):
            y, moved = xs.copy(), states.copy()
            stack.forward(y, moved[:, np.newaxis], np.array([0, tokens], np.intp), Workspace(), threads)
            assert y.tobytes() == expected.tobytes()
            assert moved.tobytes() == one_by_one.tobytes()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[40], [1, 70, 2, 3, 33], [33], [34], [35], [2] * 40, [512]])
def test_the_last_tokens_alone_are_the_same(isa: str, real: str, layers: int, lengths: list[int]) -> None:
    cases = [Case(real, i, d_model=64, d_att=80, d_ffn=200) for i in range(layers)]
    stack = rwkv4.Stack([case.layer for case in cases])
    starts = np.cumsum([0, *lengths], dtype=np.intp)
    states = np.array([[case.state().data for _ in lengths] for case in cases])
    xs = cases[0].xs(sum(lengths))
    expected, expected_states = xs.copy(), states.copy()
    stack.forward(expected, expected_states, starts, Workspace(), 1)
    for threads in (1, 3):
        y, moved = xs.copy(), states.copy()
        stack.forward(y, moved, starts, Workspace(), threads, True)
        assert y[starts[1:] - 1].tobytes() == expected[starts[1:] - 1].tobytes()
        assert moved.tobytes() == expected_states.tobytes()


def test_the_last_layer_leaves_out_what_no_result_needs() -> None:
    case = Case("f32", 1)
    xs = case.xs(80)
    y, state = xs.copy(), case.state().data
    rwkv4.Stack([case.layer]).forward(
        y, state[np.newaxis, np.newaxis], np.array([0, 80], np.intp), Workspace(), 1, True
    )
    assert y[:-1].tobytes() == xs[:-1].tobytes()
    assert y[-1].tobytes() != xs[-1].tobytes()


def test_layers_that_do_not_fit_each_other() -> None:
    with pytest.raises(KernelError, match="Stack: expected layers of one width, state and type, got"):
        rwkv4.Stack([Case("f32").layer, Case("f32", 1, d_att=32).layer])
    with pytest.raises(KernelError, match=r"Stack: expected layers of one width, state and type, got \[\]"):
        rwkv4.Stack([])
    with pytest.raises(KernelError, match="Stack: expected layers, got NoneType"):
        rwkv4.Stack([None])
    with pytest.raises(KernelError, match="Stack: expected layers, got TimeMix"):
        rwkv4.Stack([Case("f32").time_mix])


def test_starts_that_are_none() -> None:
    case = Case("f32")
    xs, states, workspace = case.xs(4), np.array([[case.state().data] * 2]), Workspace()
    stack = rwkv4.Stack([case.layer])
    before = states.copy()
    for starts in ([0, 4], [0, 2, 5], [1, 2, 4], [0, 2, 3, 4]):
        with pytest.raises(KernelError, match="Stack: expected 3 starts from 0 to 4 for 2 sequences"):
            stack.forward(xs, states, np.array(starts, np.intp), workspace, 1)
    for starts in ([0, 4, 4], [0, 0, 4]):
        with pytest.raises(KernelError, match="Stack: expected at least one token in sequence [01], got none"):
            stack.forward(xs, states, np.array(starts, np.intp), workspace, 1)
    stack.forward(xs[:0], states[:, :0], np.zeros(1, np.intp), workspace, 1)
    assert (states == before).all()


def test_no_tokens() -> None:
    case = Case("f32")
    state = case.state()
    before = state.data.copy()
    assert case.time_mix.forward(np.empty((0, 20), np.float32), *(state[name] for name in FIELDS[1:])).shape == (0, 20)
    assert case.channel_mix.forward(np.empty((0, 20), np.float32), state["ffn_xx"]).shape == (0, 20)
    assert (state.data == before).all()


def test_a_signal_does_not_wait_for_all_layers() -> None:
    class HandledError(Exception):
        pass

    def handle(number: int, frame: object) -> None:
        raise HandledError

    case = Case("f32")
    layers, xs, starts, workspace = 10_000, case.xs(50), np.array([0, 50], np.intp), Workspace()
    stack = rwkv4.Stack([case.layer] * layers)
    states = np.repeat(case.state().data[np.newaxis, np.newaxis], layers, axis=0)
    untouched = states[-1].copy()
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(HandledError):
            stack.forward(xs, states, starts, workspace, 1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert states[-1].tobytes() == untouched.tobytes()
