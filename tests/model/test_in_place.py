"""Decode in place: no allocation or copy of the state's size, for every version."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel

#: The layers of the released 0.4B models, half as wide: every state is far larger than SMALL.
DIMENSIONS = {"d_model": 512, "num_layers": 24, "vocab_size": 64}
#: What a call allocates beside the logits: a row of the embedding, and Python's own objects.
SMALL = 16 << 10


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Return a model of 24 layers that share the arrays of two, so that it takes little memory."""
    architecture = ARCHITECTURES[request.param]
    config = architecture.complete(Config(architecture=request.param, **DIMENSIONS))
    two = random_checkpoint(replace(config, num_layers=2))
    parameters: dict[str, Any] = {}
    for spec in architecture.parameters(config):
        block, _, rest = spec.name.partition(".")
        index, _, short = rest.partition(".")
        name = f"blocks.{min(int(index), 1)}.{short}" if block == "blocks" else spec.name
        if name in two and two[name].shape == spec.shape:
            parameters[spec.name] = two[name]
    return LanguageModel(config, parameters, fingerprint="0" * 64)


def peak(call: Callable[[], object]) -> int:
    """Return the most memory, in bytes, that NumPy and Python had allocated at once during `call`."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_step_allocates_and_copies_no_state(model: LanguageModel) -> None:
    _, state = model.forward([1, 2, 3])
    address = state.data.ctypes.data
    model.forward(4, state, in_place=True)  # the workspace has its size from here on
    assert state.nbytes > 10 * SMALL
    assert peak(lambda: model.forward(5, state, in_place=True)) < SMALL
    logits, same = model.forward(6, state, in_place=True)
    assert same is state
    assert state.data.ctypes.data == address
    expected, _ = model.forward([1, 2, 3, 4, 5, 6])
    assert logits.tobytes() == expected.tobytes()


def test_a_batch_in_place_addresses_the_states(model: LanguageModel) -> None:
    _, states = model.forward_batch([[i, i + 1] for i in range(4)])
    addresses = [state.data.ctypes.data for state in states]
    model.forward_batch([5] * 4, states, in_place=True)
    assert peak(lambda: model.forward_batch([6] * 4, states, in_place=True)) < 4 * SMALL
    assert [state.data.ctypes.data for state in states] == addresses


def test_a_fork_is_one_copy_and_a_rollback_is_the_old_state(model: LanguageModel) -> None:
    _, state = model.forward([1, 2, 3])
    before = state.data.copy()
    first, after = model.forward(4, state)
    assert np.array_equal(state.data, before)
    assert after.data.ctypes.data != state.data.ctypes.data
    again, _ = model.forward(4, state.copy(), in_place=True)
    assert again.tobytes() == first.tobytes()
    assert peak(lambda: model.forward(4, state)) < state.nbytes + SMALL
