"""State: views, copies, equality, and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from rwkv_cy.architectures.base import StateField
from rwkv_cy.errors import StateError
from rwkv_cy.model.state import LayerState, State

FIELDS = (StateField("xx", (3,), 0.0), StateField("s", (2, 2), -1.0))


def make(dtype: str = "f32", fingerprint: str = "abc") -> State:
    return State.initial("rwkv4", FIELDS, 2, dtype, fingerprint)


def test_initial_values() -> None:
    state = make("f64")
    assert state.data.dtype == np.float64
    assert state.data.tolist() == [[0, 0, 0, -1, -1, -1, -1]] * 2
    assert (state.num_layers, state.nbytes) == (2, 2 * 7 * 8)


def test_layers_are_views() -> None:
    state = make()
    first, second = state.layers
    second.s[1, 0] = 5
    second["xx"][...] = 2
    assert state.data[1].tolist() == [2, 2, 2, -1, -1, 5, -1]
    assert state.data[0].tolist() == [0, 0, 0, -1, -1, -1, -1]
    assert list(first) == ["xx", "s"]
    assert len(first) == 2
    with pytest.raises(AttributeError, match="LayerState has no field 'yy'; it has xx, s"):
        _ = first.yy
    with pytest.raises(AttributeError):
        _ = first._hidden


@pytest.mark.parametrize("how", [State.copy, copy.copy, copy.deepcopy])
def test_copy_is_independent(how: Callable[[State], State]) -> None:
    state = make()
    other = how(state)
    assert other == state
    other.data[0, 0] = 1
    assert other != state
    assert state.data[0, 0] == 0


def test_equality_looks_at_everything() -> None:
    assert make() != make("f64")
    assert make() != make(fingerprint="abd")
    assert make() != State("rwkv5", FIELDS, make().data.copy(), "abc")
    assert make() != "a state"
    nan = make()
    nan.data[0, 0] = np.nan
    assert nan == nan.copy()
    with pytest.raises(TypeError):
        hash(nan)


def test_repr_says_what_it_is() -> None:
    assert repr(make()) == "State(rwkv4, num_layers=2, float32, 56 bytes, fingerprint=abc)"
    assert "fingerprint=none" in repr(make(fingerprint=""))


def test_what_does_not_fit() -> None:
    with pytest.raises(StateError, match=r"expected a contiguous array \(num_layers, 7\) for rwkv4, got \(2, 6\)"):
        State("rwkv4", FIELDS, np.zeros((2, 6), np.float32))
    with pytest.raises(StateError, match="expected a contiguous array"):
        State("rwkv4", FIELDS, np.zeros((4, 7), np.float32)[::2])
    with pytest.raises(StateError, match="expected float32 or float64 numbers, got float16"):
        State("rwkv4", FIELDS, np.zeros((2, 7), np.float16))


def test_layer_state_holds_its_row() -> None:
    row = np.arange(7, dtype=np.float32)
    layer = LayerState(FIELDS, row)
    assert layer.data is row
    assert layer["s"].tolist() == [[3, 4], [5, 6]]


def test_states_of_other_fields_are_not_equal() -> None:
    data = np.zeros((2, 4), np.float32)
    one = State("rwkv4", [StateField("a", (4,), 0.0)], data)
    assert one == State("rwkv4", [StateField("a", (4,), 0.0)], data.copy())
    assert one != State("rwkv4", [StateField("b", (4,), 0.0)], data)
    assert one != State("rwkv4", [StateField("a", (2, 2), 0.0)], data)
