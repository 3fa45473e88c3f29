"""States are passed by address: a new one is one copy, and those of a batch may be anywhere.

What calls in place allocate is counted in tests/model/test_in_place.py, at the size of released models.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from checkpoints import random_checkpoint
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State

#: Layers enough that a copy of a state is larger than all else that a call allocates.
LAYERS = 24


@pytest.fixture(scope="module")
def _models() -> dict[str, LanguageModel]:
    return {}


@pytest.fixture
def model(name: str, config: Config, _models: dict[str, LanguageModel]) -> LanguageModel:
    if name not in _models:
        deep = replace(config, num_layers=LAYERS)
        _models[name] = LanguageModel(deep, random_checkpoint(deep))
    return _models[name]


def allocated(function: Callable[[], object]) -> int:
    """Return the bytes of NumPy and Python that are in use at the peak of a call, beyond those before it.

    The call is made once before, for the scratch memory that the model then keeps.
    """
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def fresh(model: LanguageModel) -> State:
    _, state = model.forward([1, 2, 3])
    return state


def test_a_new_state_is_one_copy(model: LanguageModel) -> None:
    state = fresh(model)
    assert state.nbytes <= allocated(lambda: model.forward(4, state)) < 1.5 * state.nbytes
    assert state.nbytes <= allocated(state.copy) < 1.5 * state.nbytes


def test_states_of_a_batch_need_not_be_next_to_each_other(model: LanguageModel) -> None:
    states = [fresh(model) for _ in range(3)]
    expected, after = model.forward_batch([4, 5, 6], states)
    model.forward(9, states[1], in_place=True)
    logits, same = model.forward_batch([6, 4], [states[2], states[0]], in_place=True)
    assert logits.tobytes() == expected[[2, 0]].tobytes()
    assert same[0] == after[2]
    assert same[1] == after[0]
