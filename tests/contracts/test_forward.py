"""Guarantees of a forward pass, for every architecture, storage type and instruction set."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from contracts.cases import CONFIGS, PRECISIONS, REFERENCES, every_logits, reference_forward, tokens_for, tolerance_of
from contracts.conftest import Loader
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.passes import Part
from rwkv_cy.model.state import State

#: Tokens of a prompt: more than a tile of any product, and not a multiple of one.
LENGTH = 70


def steps(model: LanguageModel, tokens: list[int], state: State | None = None) -> tuple[np.ndarray, State]:
    """Feed the tokens one by one, on one thread."""
    rows = []
    for token in tokens:
        logits, state = model.forward(token, state, num_threads=1)
        rows.append(logits)
    assert state is not None
    return np.array(rows), state


@cache
def every_step(model: LanguageModel) -> tuple[np.ndarray, State]:
    """Return what :func:`steps` gives for the prompt of the tests, computed once for each model."""
    rows, state = steps(model, tokens_for(model, LENGTH))
    rows.flags.writeable = False
    return rows, state


def test_every_architecture_is_in_the_tables() -> None:
    assert set(REFERENCES) == set(ARCHITECTURES)
    assert {config.architecture for config in CONFIGS.values()} == set(ARCHITECTURES)


def test_every_storage_type_is_in_the_tables() -> None:
    assert set(PRECISIONS) == {*STORAGE_TYPES, *QUANTIZED_TYPES}  # bf12 has a test of its own


def test_logits_and_states_of_the_reference(model: LanguageModel, dtype: str) -> None:
    assert dtype in {parameter.dtype for parameter in model.parameters.values()}
    tokens, tolerance = tokens_for(model, LENGTH), tolerance_of(model.config, dtype)
    expected, expected_states = reference_forward(model, tokens)
    logits, state = every_logits(model, tokens)
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()
    for layer, expected_layer in zip(state.layers, expected_states, strict=True):
        assert set(layer) == set(expected_layer)
        for field, array in expected_layer.items():
            assert np.abs(layer[field] - array).max() <= tolerance * np.abs(array).max(), field


def test_a_sequence_is_its_tokens_one_by_one_to_the_last_bit(model: LanguageModel) -> None:
    tokens = tokens_for(model, LENGTH)
    expected, state = every_step(model)
    for threads in (1, 2, 3):
        logits, after = every_logits(model, tokens, num_threads=threads)
        last, same = model.forward(tokens, num_threads=threads)
        assert logits.tobytes() == expected.tobytes()
        assert last.tobytes() == expected[-1].tobytes()
        assert after == same == state


@pytest.mark.parametrize("at", [1, 33, LENGTH - 1])
def test_a_sequence_in_two_parts_gives_the_same_bits(model: LanguageModel, at: int) -> None:
    tokens = tokens_for(model, LENGTH)
    expected, expected_state = every_logits(model, tokens)
    first, state = every_logits(model, tokens[:at])
    second, state = every_logits(model, tokens[at:], state)
    assert first.tobytes() + second.tobytes() == expected.tobytes()
    assert state == expected_state


def test_a_batch_is_each_sequence_alone_to_the_last_bit(model: LanguageModel) -> None:
    lengths = (3, LENGTH, 1, 17, 1)
    sequences = [tokens_for(model, length, seed) for seed, length in enumerate(lengths)]
    _, middle = model.forward(tokens_for(model, 9))
    states = [None, middle, middle.copy(), None, middle]
    before = middle.copy()
    alone = [model.forward(tokens, state) for tokens, state in zip(sequences, states, strict=True)]
    for threads in (1, 2, 3):
        logits, after = model.forward_batch(sequences, states, num_threads=threads)
        assert middle == before
        for row, state, (expected, expected_state) in zip(logits, after, alone, strict=True):
            assert row.tobytes() == expected.tobytes()
            assert state == expected_state


def test_a_batch_of_single_tokens_is_each_alone_to_the_last_bit(model: LanguageModel) -> None:
    tokens = tokens_for(model, 20)
    logits, states = model.forward_batch(tokens, num_threads=2)
    again, states = model.forward_batch(tokens[::-1], states, in_place=True, num_threads=3)
    for i, (first, second) in enumerate(zip(tokens, tokens[::-1], strict=True)):
        expected, state = steps(model, [first, second])
        assert logits[i].tobytes() == expected[0].tobytes()
        assert again[i].tobytes() == expected[1].tobytes()
        assert states[i] == state


def test_in_place_gives_the_same_bits_as_a_new_state(model: LanguageModel) -> None:
    for tokens in ([5], tokens_for(model, LENGTH)):
        _, state = model.forward(tokens_for(model, 3))
        before = state.copy()
        expected, after = model.forward(tokens, state)
        assert state == before
        logits, same = model.forward(tokens, state, in_place=True)
        assert same is state
        assert logits.tobytes() == expected.tobytes()
        assert state == after


def test_a_fork_goes_its_own_way(model: LanguageModel) -> None:
    prefix, one, other = (tokens_for(model, count, seed) for seed, count in enumerate((8, 5, 3)))
    _, state = model.forward(prefix)
    fork = state.copy()
    one_logits, _ = model.forward(one, state, in_place=True)
    other_logits, _ = model.forward(other, fork, in_place=True)
    assert one_logits.tobytes() == model.forward(prefix + one)[0].tobytes()
    assert other_logits.tobytes() == model.forward(prefix + other)[0].tobytes()
    assert state == model.forward(prefix + one)[1]
    assert fork == model.forward(prefix + other)[1]


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.d_model % 128 == 0])
def test_packed_matrices_give_the_bits_of_bf16(load_model: Loader, name: str) -> None:
    packed, plain = load_model(name, "bf12"), load_model(name, "bf16")
    assert {parameter.dtype for parameter in packed.parameters.values()} >= {"bf12"}
    tokens = tokens_for(packed, LENGTH)
    for threads in (1, 3):
        logits, state = every_logits(packed, tokens, num_threads=threads)
        expected, expected_state = every_logits(plain, tokens)
        assert logits.tobytes() == expected.tobytes()
        assert state.data.tobytes() == expected_state.data.tobytes()
    one, _ = packed.forward(tokens[0])
    assert one.tobytes() == plain.forward(tokens[0])[0].tobytes()


def test_a_pass_writes_the_state_after_each_token(model: LanguageModel) -> None:
    """A pass with parts of all kinds gives what each gives alone, also if it reads a state that it overwrites."""
    tokens = tokens_for(model, LENGTH)
    expected, _ = every_step(model)
    states = [model.forward(tokens[:n])[1] for n in range(1, 13)]
    planes = np.full((6, *states[0].data.shape), np.nan, states[0].data.dtype)
    planes[3] = states[5].data  # after six tokens, written by an earlier pass
    prompt, single = np.empty_like(planes[0]), states[0].copy()
    ids = np.array(tokens, np.int64)
    for threads in (1, 3):
        draft = planes.copy()
        parts = [
            Part(ids[:40], model.encoder.numbers(None), prompt, wanted=0),
            Part(ids[6:12], draft[3], draft, wanted=6),
            Part(ids[1:2], states[0].data, single.data),
        ]
        rows = model.passes.run(parts, threads)
        assert [len(each) for each in rows] == [0, 6, 1]
        assert rows[1].tobytes() == expected[6:12].tobytes()
        assert rows[2].tobytes() == expected[1:2].tobytes()
        assert draft.tobytes() == np.array([state.data for state in states[6:]]).tobytes()
        assert single.data.tobytes() == states[1].data.tobytes()
        assert prompt.tobytes() == model.forward(tokens[:40])[1].data.tobytes()
