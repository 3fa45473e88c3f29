"""LanguageModel.forward_batch: many sequences at once give the bits of each one alone."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import random_model
from rwkv_cy.errors import ConfigError, NumericalError, StateError, TokenError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State


def test_a_batch_equals_each_alone_to_the_last_bit(kjv: LanguageModel, heldout: bytes) -> None:
    sequences = [list(heldout[i * 700 : i * 700 + n]) for i, n in enumerate((3, 400, 1, 129, 128, 2))]
    _, middle = kjv.forward(list(b"And God said"))
    states = [None, middle, middle.copy(), None, middle, None]
    before = middle.copy()
    expected = [kjv.forward(tokens, state) for tokens, state in zip(sequences, states, strict=True)]
    for threads in (1, 2):
        logits, after = kjv.forward_batch(sequences, states, num_threads=threads)
        assert logits.shape == (6, 256)
        for row, state, (wanted, wanted_state) in zip(logits, after, expected, strict=True):
            assert row.tobytes() == wanted.tobytes()
            assert state == wanted_state
    assert middle == before


def test_a_batch_in_place(kjv: LanguageModel) -> None:
    states = [kjv.initial_state() for _ in range(20)]
    logits, same = kjv.forward_batch(list(range(65, 85)), states, in_place=True)
    assert all(a is b for a, b in zip(same, states, strict=True))
    expected, state = kjv.forward(70)
    assert (logits[5] == expected).all()
    assert states[5] == state
    mixed = [states[0], None]
    _, after = kjv.forward_batch([1, [2, 3]], mixed, in_place=True)
    assert after[0] is states[0]
    assert after[1] == kjv.forward([2, 3])[1]


def test_a_batch_of_nothing(kjv: LanguageModel) -> None:
    logits, states = kjv.forward_batch([])
    assert logits.shape == (0, 256)
    assert states == []


def test_a_batch_that_is_refused_changes_nothing(kjv: LanguageModel) -> None:
    states = [kjv.initial_state(), kjv.initial_state()]
    with pytest.raises(TokenError, match=r"sequence 1: tokens\[1\]: expected an id from 0 to 255, got 300"):
        kjv.forward_batch([[1], [2, 300]], states, in_place=True)
    with pytest.raises(TokenError, match="sequence 0: tokens is empty; give at least one"):
        kjv.forward_batch([[], [1]])
    with pytest.raises(ConfigError, match="forward_batch: expected 2 states, one per sequence, got 1"):
        kjv.forward_batch([1, 2], states[:1])
    with pytest.raises(ConfigError, match="expected a state of its own for each sequence in place, got one twice"):
        kjv.forward_batch([1, 2], [states[0]] * 2, in_place=True)
    alias = State(states[0].architecture, states[0].fields, states[0].data)
    with pytest.raises(ConfigError, match="expected a state of its own for each sequence in place, got one twice"):
        kjv.forward_batch([1, 2], [states[0], alias], in_place=True)
    with pytest.raises(StateError, match="sequence 1: state: expected a State or None, got dict"):
        kjv.forward_batch([1, 2], [None, {}])  # type: ignore[list-item]
    assert states[0] == states[1] == kjv.initial_state()
    model = random_model()
    broken = {key: p.array.copy() for key, p in model.parameters.items()}
    broken["emb.weight"][7, 5] = np.nan
    with pytest.raises(NumericalError, match=r"sequence 1: token 7 at 1: its row of emb\.weight is not finite"):
        LanguageModel(model.config, broken).forward_batch([[1, 2], [3, 7], [4]])
