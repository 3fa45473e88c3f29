"""The mixes of RWKV-5, in all its minor versions, against the reference implementation, and against single steps."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.heads_case import HeadsCase
from rwkv56_shapes import rwkv5_config
from rwkv_cy.kernels.reference import rwkv4, rwkv5

#: Width and head size: heads that fill vector registers and blocks of rows, and heads that do not.
HEADS = [(128, 64), (35, 7), (3, 1)]


@pytest.fixture(params=[0, 1, 2], ids=["5.0", "5.1", "5.2"])
def minor(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def case(minor: int, real: str, d_model: int = 48, head_size: int = 16) -> HeadsCase:
    return HeadsCase(rwkv5_config(minor, d_model, 2, head_size, d_ffn=37), real, rwkv5.time_mix, rwkv4.channel_mix)


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
@pytest.mark.parametrize("tokens", [1, 30])
def test_time_mix_against_the_reference(
    isa: str, real: str, minor: int, tokens: int, d_model: int, head_size: int
) -> None:
    case(minor, real, d_model, head_size).assert_mix(0, tokens)


@pytest.mark.parametrize("tokens", [1, 30])
def test_channel_mix_against_the_reference(isa: str, real: str, minor: int, tokens: int) -> None:
    case(minor, real).assert_mix(1, tokens)


@pytest.mark.parametrize(("d_model", "head_size"), HEADS)
def test_a_sequence_is_its_tokens_one_by_one_to_the_last_bit(
    isa: str, real: str, minor: int, d_model: int, head_size: int
) -> None:
    case(minor, real, d_model, head_size).assert_steps()


def test_decay_is_the_nearest_number_to_its_formula(isa: str, real: str, minor: int) -> None:
    # A key of 0 leaves S diag(w), and S begins as ones.
    one = case(minor, real, 480, 2)
    decay = one.weights["att.time_decay"]
    decay[...] = np.linspace(-20, 10, decay.size).reshape(decay.shape)
    one.weights["att.key.weight"][...] = 0.0
    state = one.state()
    state["att_kv"][...] = 1.0
    one.mixes()[0].forward(one.xs(1), state.data)
    expected = np.exp(-np.exp(decay.astype(np.float64))).astype(one.dtype).reshape(len(decay), 1, -1)
    # Subnormal numbers count as 0.
    expected[expected < np.finfo(one.dtype).tiny] = 0
    np.testing.assert_array_equal(state["att_kv"], np.broadcast_to(expected, state["att_kv"].shape))


def test_one_number_for_a_head_is_that_number_for_each_of_its_channels(isa: str, real: str) -> None:
    by_head, by_channel = case(1, real), case(2, real)
    by_channel.weights |= {
        name: np.repeat(array[:, np.newaxis], 16, axis=1) if name in ("att.time_decay", "att.time_faaaa") else array
        for name, array in by_head.weights.items()
    }
    xs, state = by_head.xs(20), by_head.state()
    other = state.data.copy()
    expected = by_head.mixes()[0].forward(xs, state.data)
    assert by_channel.mixes()[0].forward(xs, other).tobytes() == expected.tobytes()
    assert other.tobytes() == state.data.tobytes()


def test_nan_passes_through(isa: str, real: str, minor: int) -> None:
    one = case(minor, real)
    xs, state = one.xs(5), one.state()
    xs[2, 3] = np.nan
    y = one.mixes()[0].forward(xs, state.data)
    assert np.isfinite(y[:2]).all()
    assert np.isnan(y[2:]).any(axis=1).all()
