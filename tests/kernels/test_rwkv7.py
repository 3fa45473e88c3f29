"""The mixes of RWKV-7 against the reference implementation, and against single steps."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import random_checkpoint
from rwkv7_shapes import rwkv7_config
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import rwkv7
from rwkv_cy.kernels.reference import rwkv7 as reference
from rwkv_cy.kernels.reference import sigmoid
from rwkv_cy.model.state import LayerState
from rwkv_cy.tensors.tensor import Parameter

ARCHITECTURE = ARCHITECTURES["rwkv7"]

#: Width and head size: heads that fill vector registers and blocks of rows, and heads that do not.
HEADS = [(128, 64), (48, 16), (35, 7), (20, 5), (24, 24), (3, 1)]


class Case:
    """The mixes of one layer, no parameter at its neutral value, and a state that some tokens have gone through."""

    def __init__(self, real: str, layer: int = 1, d_model: int = 48, head_size: int = 16, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)
        config = rwkv7_config(d_model, 2, head_size, (5, 7, 3, 11), d_ffn=37)
        self.config = Config(**{**config.to_dict(), "compute_dtype": real})
        self.layer = layer
        self.dtype = np.dtype(np.float64 if real == "f64" else np.float32)
        self.tolerance = 1e-12 if real == "f64" else 1e-5
        prefix = f"blocks.{layer}."
        self.weights = {
            name.removeprefix(prefix): array
            for name, array in random_checkpoint(self.config, seed).items()
            if name.startswith(prefix)
        }

    def time_mix(self, scale: float = 1.0) -> rwkv7.TimeMix:
        """Return the compiled time mix of the weights as they are now."""
        offsets = ARCHITECTURE.state_offsets(self.config)
        return rwkv7.TimeMix(self.config, offsets, self.parameters(), scale, "f32", self.layer)

    def channel_mix(self, scale: float = 1.0) -> rwkv7.ChannelMix:
        """Return the compiled channel mix of the weights as they are now."""
        return rwkv7.ChannelMix(self.config, ARCHITECTURE.state_offsets(self.config), self.parameters(), scale)

    def parameters(self) -> dict[str, Parameter]:
        return {name: Parameter(array, self.config.compute_dtype) for name, array in self.weights.items()}

    def xs(self, tokens: int) -> np.ndarray:
        return self.rng.standard_normal((tokens, self.config.d_model)).astype(self.dtype)

    def state(self) -> LayerState:
        fields = ARCHITECTURE.state_fields(self.config)
        row = self.rng.standard_normal(sum(field.size for field in fields)).astype(self.dtype)
        return LayerState(fields, row)

    def reference_time_mix(self, xs: np.ndarray, state: LayerState, shared: np.ndarray) -> tuple[np.ndarray, dict]:
        """Return what the reference makes of the same inputs, and its state after them."""
        wide = {name: array.astype(np.float64) for name, array in self.weights.items()}
        after = {name: array.astype(np.float64) for name, array in state.items()}
        given = {"v_first": shared.astype(np.float64)} if self.layer else {}
        y = reference.time_mix(xs.astype(np.float64), after, wide, given, eps=self.config.group_norm_eps)
        return y, {**after, "v_first": given["v_first"]}

    def assert_close(self, actual: np.ndarray, expected: np.ndarray) -> None:
        assert np.isfinite(actual).all()
        assert np.abs(actual - expected).max() <= self.tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
@pytest.mark.parametrize("tokens", [1, 2, 30])
@pytest.mark.parametrize("layer", [0, 1])
def test_time_mix_against_the_reference(
    isa: str, real: str, layer: int, tokens: int, d_model: int, head_size: int
) -> None:
    case = Case(real, layer, d_model, head_size)
    xs, state, shared = case.xs(tokens), case.state(), case.xs(tokens)
    expected, after = case.reference_time_mix(xs, state, shared)
    y = case.time_mix(0.5).forward(xs, state.data, 2, shared)
    case.assert_close(y, 0.5 * expected)
    case.assert_close(shared, after["v_first"])
    for name, array in state.items():
        case.assert_close(array, after[name])


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_channel_mix_against_the_reference(isa: str, real: str, tokens: int) -> None:
    case = Case(real)
    xs, state = case.xs(tokens), case.state()
    wide = {name: array.astype(np.float64) for name, array in case.weights.items()}
    after = {name: array.astype(np.float64) for name, array in state.items()}
    expected = reference.channel_mix(xs.astype(np.float64), after, wide, {})
    y = case.channel_mix(0.5).forward(xs, state.data, 2)
    case.assert_close(y, 0.5 * expected)
    for name, array in state.items():
        case.assert_close(array, after[name])


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
def test_a_sequence_is_its_tokens_one_by_one_to_the_last_bit(isa: str, real: str, d_model: int, head_size: int) -> None:
    case = Case(real, 1, d_model, head_size)
    mix, xs, state, shared = case.time_mix(), case.xs(35), case.state(), case.xs(35)
    single_state = state.data.copy()
    single = [mix.forward(xs[t : t + 1], single_state, 1, shared[t : t + 1].copy()) for t in range(len(xs))]
    # More threads than heads share a head by its rows.
    for threads in (1, 2, 7):
        after = state.data.copy()
        y = mix.forward(xs, after, threads, shared.copy())
        assert y.tobytes() == np.concatenate(single).tobytes()
        assert after.tobytes() == single_state.tobytes()


def test_decay_to_three_units_in_the_last_place(isa: str, real: str) -> None:
    # A key of 0 leaves S diag(w), and S begins as ones.
    logits = np.concatenate([np.linspace(-120, 120, 477), [-1e30, 1e30, 0.0]])
    case = Case(real, 1, len(logits), 16)
    case.weights["att.key.weight"][...] = 0.0
    case.weights["att.w2"][...] = 0.0
    case.weights["att.w0"][...] = logits
    state = case.state()
    state["att_kv"][...] = 1.0
    case.time_mix().forward(case.xs(1), state.data)
    stored = case.weights["att.w0"].reshape(-1, 1, 16).astype(np.float64)
    expected = np.broadcast_to(np.exp(-np.exp(-0.5) * sigmoid(stored)), state["att_kv"].shape)
    units = np.abs(state["att_kv"] - expected) / np.spacing(expected.astype(case.dtype))
    assert units.max() <= 3


@pytest.mark.parametrize("size", [0.0, 1e-13, 1e-25])
def test_keys_next_to_nothing(isa: str, real: str, size: float) -> None:
    # The norm of a key counts as 1e-12 at least, so that a key of 0 is removed from nowhere, and is not NaN.
    case = Case(real)
    case.weights["att.key.weight"] *= case.dtype.type(size)
    xs, state, shared = case.xs(5), case.state(), case.xs(5)
    before = state["att_kv"].copy()
    expected, after = case.reference_time_mix(xs, state, shared)
    y = case.time_mix().forward(xs, state.data, 1, shared)
    case.assert_close(y, expected)
    case.assert_close(state["att_kv"], after["att_kv"])
    assert (state["att_kv"] != before).any()


def test_large_numbers_do_not_overflow(isa: str, real: str) -> None:
    case = Case(real)
    for name in ("att.key.weight", "att.value.weight", "att.receptance.weight", "att.w1", "att.a1", "att.g1", "att.v1"):
        case.weights[name] *= 1000
    xs, state, shared = case.xs(30), case.state(), case.xs(30)
    expected, after = case.reference_time_mix(xs, state, shared)
    y = case.time_mix().forward(xs, state.data, 1, shared)
    assert np.isfinite(y).all()
    # Gates of about 1,000 have an absolute error of 1e-4 in float32, and e^gate has it as its relative error.
    tolerance = 1e-9 if real == "f64" else 1e-2
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()
    assert np.abs(state["att_kv"] - after["att_kv"]).max() <= tolerance * np.abs(after["att_kv"]).max()


def test_nan_passes_through(isa: str, real: str) -> None:
    case = Case(real)
    xs, state = case.xs(5), case.state()
    xs[2, 3] = np.nan
    y = case.time_mix().forward(xs, state.data)
    assert np.isfinite(y[:2]).all()
    assert np.isnan(y[2:]).any(axis=1).all()
    assert np.isnan(state["att_kv"]).any()


def test_a_nan_in_one_head_stays_in_its_state(isa: str, real: str) -> None:
    case = Case(real)
    state = case.state()
    state["att_kv"][1, 2, 3] = np.nan
    y = case.time_mix().forward(case.xs(2), state.data)
    assert np.isnan(y).all()  # by the output matrix
    assert np.isfinite(state["att_kv"][[0, 2]]).all()
    assert np.isnan(state["att_kv"][1, 2]).all()


def test_no_tokens() -> None:
    case = Case("f32")
    state = case.state()
    before = state.data.copy()
    assert case.time_mix().forward(case.xs(0), state.data).shape == (0, 48)
    assert case.channel_mix().forward(case.xs(0), state.data).shape == (0, 48)
    assert (state.data == before).all()


def test_what_is_refused() -> None:
    case = Case("f32")
    row = case.state().data
    mix = case.time_mix()
    with pytest.raises(KernelError, match=r"TimeMix: expected \(tokens, 48\), got \(1, 8\)"):
        mix.forward(np.zeros((1, 8), np.float32), row)
    with pytest.raises(
        KernelError, match=f"TimeMix: expected a row of {row.size} elements of state, got {row.size - 1}"
    ):
        mix.forward(case.xs(1), row[:-1])
    with pytest.raises(KernelError, match="TimeMix: expected numbers of 4 bytes, got 8"):
        mix.forward(np.zeros((1, 48)), row.astype(np.float64))
    with pytest.raises(KernelError, match=r"TimeMix: expected shared activations \(2, 48\) of float32, contiguous"):
        mix.forward(case.xs(2), row, 1, case.xs(1))
    with pytest.raises(KernelError, match="TimeMix: expected at least one thread, got 0"):
        mix.forward(case.xs(1), row, 0)
    with pytest.raises(KernelError, match=r"ChannelMix: expected \(tokens, 48\), got \(1, 8\)"):
        case.channel_mix().forward(np.zeros((1, 8), np.float32), row)
    offsets, parameters = ARCHITECTURE.state_offsets(case.config), case.parameters()
    uneven = Config(**{**case.config.to_dict(), "head_size": 13})
    with pytest.raises(KernelError, match="TimeMix: expected whole heads in d_att 48, got heads of 13"):
        rwkv7.TimeMix(uneven, offsets, parameters, 1.0, "f32", 1)
