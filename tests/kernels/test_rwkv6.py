"""The mixes of RWKV-6 against the reference implementation, and against single steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels.heads_case import HeadsCase
from rwkv56_shapes import rwkv6_config
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import rwkv6
from rwkv_cy.kernels.reference import rwkv6 as reference

#: Width and head size: heads that fill vector registers and blocks of rows, and heads that do not.
HEADS = [(128, 64), (48, 16), (35, 7), (20, 5), (24, 24), (3, 1)]


def case(real: str, d_model: int = 48, head_size: int = 16, layer: int = 1) -> HeadsCase:
    config = rwkv6_config(d_model, 2, head_size, (5, 7), d_ffn=37)
    return HeadsCase(config, real, reference.time_mix, reference.channel_mix, layer)


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_time_mix_against_the_reference(isa: str, real: str, tokens: int, d_model: int, head_size: int) -> None:
    case(real, d_model, head_size).assert_mix(0, tokens)


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_channel_mix_against_the_reference(isa: str, real: str, tokens: int) -> None:
    case(real).assert_mix(1, tokens)


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
def test_a_sequence_is_its_tokens_one_by_one_to_the_last_bit(isa: str, real: str, d_model: int, head_size: int) -> None:
    case(real, d_model, head_size).assert_steps()


#: Logits of the decay: what training gives, far below, and where e^x overflows.
LOGITS = np.concatenate([np.linspace(-90, 6, 477), [-1e30, 20.0, 88.0, 89.0, 700.0, 1e30, np.inf]])


def test_decay_of_any_logit(isa: str, real: str) -> None:
    # A key of 0 leaves S diag(w), and S begins as ones.
    one = case(real, len(LOGITS) - len(LOGITS) % 16, 16)
    logits = LOGITS[-one.config.d_att :]
    one.weights["att.key.weight"][...] = 0.0
    one.weights["att.time_decay_w2"][...] = 0.0
    one.weights["att.time_decay"][...] = logits
    state = one.state()
    state["att_kv"][...] = 1.0
    one.mixes()[0].forward(one.xs(1), state.data)
    stored = one.weights["att.time_decay"].reshape(-1, 1, 16).astype(np.float64)
    expected = np.broadcast_to(reference.decay(stored), state["att_kv"].shape)
    # e^x of a logit has a relative error of 2 units, and e^-e^x that times e^x.
    with np.errstate(over="ignore"):
        error = np.finfo(one.dtype).eps * (3 + 3 * np.minimum(np.exp(stored), 200))
    assert (np.abs(state["att_kv"] - expected) <= error * expected + 1.2 * np.finfo(one.dtype).tiny).all()
    assert (state["att_kv"][np.broadcast_to(stored >= 20, state["att_kv"].shape)] == 0).all()


@pytest.mark.parametrize("logit", [5.0, 88.0, 1e30])
def test_a_decay_of_zero_forgets_everything(isa: str, real: str, logit: float) -> None:
    one = case(real)
    one.weights["att.time_decay"][...] = logit
    xs, state = one.xs(30), one.state()
    expected, after = one.reference(0, xs, state)
    y = one.mixes()[0].forward(xs, state.data, 2)
    one.assert_close(y, expected)
    one.assert_close(state["att_kv"], after["att_kv"])
    # What is left is the last token's: a matrix of rank 1.
    assert (np.linalg.matrix_rank(state["att_kv"].astype(np.float64), 1e-4) == 1).all()


def test_large_numbers_do_not_overflow(isa: str, real: str) -> None:
    one = case(real)
    for name in ("att.key.weight", "att.value.weight", "att.receptance.weight", "att.gate.weight", "att.time_maa_w1"):
        one.weights[name] *= 1000
    one.weights["att.time_decay_w2"] *= 100
    xs, state = one.xs(30), one.state()
    expected, after = one.reference(0, xs, state)
    y = one.mixes()[0].forward(xs, state.data, 1)
    assert np.isfinite(y).all()
    # A logit of 100 has an absolute error of 1e-5 in float32, and e^-e^logit a larger one where it is not 0 or 1.
    tolerance = 1e-9 if real == "f64" else 1e-2
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()
    assert np.abs(state["att_kv"] - after["att_kv"]).max() <= tolerance * np.abs(after["att_kv"]).max()


def test_nan_passes_through(isa: str, real: str) -> None:
    one = case(real)
    xs, state = one.xs(5), one.state()
    xs[2, 3] = np.nan
    y = one.mixes()[0].forward(xs, state.data)
    assert np.isfinite(y[:2]).all()
    assert np.isnan(y[2:]).any(axis=1).all()
    assert np.isnan(state["att_kv"]).any()


def test_a_nan_in_one_head_stays_in_its_state(isa: str, real: str) -> None:
    one = case(real)
    state = one.state()
    state["att_kv"][1, 2, 3] = np.nan
    y = one.mixes()[0].forward(one.xs(2), state.data)
    assert np.isnan(y).all()  # by the output matrix
    assert np.isfinite(state["att_kv"][[0, 2]]).all()
    assert np.isnan(state["att_kv"][1, 2, 3])


def test_what_is_refused() -> None:
    one = case("f32")
    mix, row = one.mixes()[0], one.state().data
    with pytest.raises(KernelError, match=r"TimeMix: expected \(tokens, 48\), got \(1, 8\)"):
        mix.forward(np.zeros((1, 8), np.float32), row)
    one.weights["att.time_maa_w2"] = one.weights["att.time_maa_w2"][:4]
    with pytest.raises(KernelError, match=r"TimeMix: expected time_maa_w2 \(5, 5, 48\), got \(4, 5, 48\)"):
        one.mixes()
    offsets, uneven = one.architecture.state_offsets(one.config), replace(one.config, head_size=13)
    with pytest.raises(KernelError, match="TimeMix: expected whole heads in d_att 48, got heads of 13"):
        rwkv6.TimeMix(uneven, offsets, one.parameters(), 1.0, "f32")
