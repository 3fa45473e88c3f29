"""Hidden states and vectors of texts: what they are of, shapes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import random_model
from rwkv_cy.errors import ConfigError, StateError, TokenError
from rwkv_cy.kernels import reference
from rwkv_cy.model.batching import batches
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.hidden import unit
from rwkv_cy.model.language_model import LanguageModel


@pytest.mark.parametrize("real", ["f32", "f64"])
def test_the_head_maps_hidden_states_to_logits(real: str) -> None:
    model = random_model(real)
    hidden, state = model.hidden([4, 7, 1])
    logits, after = model.forward([4, 7, 1], all_logits=True)
    expected = reference.matmul(model.parameters["head.weight"].array.astype(np.float64), hidden.astype(np.float64))
    assert np.abs(logits - expected).max() <= (1e-14 if real == "f64" else 1e-5) * np.abs(expected).max()
    assert state == after


def test_one_token_and_a_state() -> None:
    model = random_model()
    whole, _ = model.hidden([4, 7])
    _, state = model.hidden(4)
    before = state.copy()
    second, after = model.hidden(7, state)
    assert second.shape == (1, model.config.d_model)
    assert second.tobytes() == whole[1:].tobytes()
    assert state == before
    assert model.hidden(7, state, in_place=True)[1] is state
    assert state == after


def test_texts(kjv: LanguageModel) -> None:
    width = kjv.config.d_model
    text = "In the beginning"
    vector = kjv.embed(text)
    for same in (text.encode(), list(text.encode()), np.frombuffer(text.encode(), np.uint8)):
        assert kjv.embed(same).tobytes() == vector.tobytes()
    several = kjv.embed([text, b"And", [65, 66], np.array([65, 66])])
    assert several.shape == (4, width)
    assert several[0].tobytes() == vector.tobytes()
    assert several[2].tobytes() == several[3].tobytes()
    assert kjv.embed([]).shape == (0, width)
    hidden, _ = kjv.hidden(list(text.encode()))
    np.testing.assert_allclose(vector, hidden.mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert kjv.embed(text, pooling="last").tobytes() == hidden[-1].tobytes()


def test_similar_texts_have_similar_vectors(kjv: LanguageModel) -> None:
    texts = ["And God said, Let there be light", "And God saw the light, that it was good", "x = [i for i in range(9)]"]
    one, two, other = kjv.embed(texts, normalize=True)
    assert one @ two > one @ other + 0.1


def test_unit_vectors() -> None:
    vectors = unit(np.array([[3, 4], [0, 0], [1e30, 0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    assert vectors.dtype == np.float32


def test_ranges_that_run_together() -> None:
    def of(*lengths: int) -> list[tuple[int, int]]:
        return list(batches([np.zeros(length, np.int64) for length in lengths]))

    assert of() == []
    assert of(1) == [(0, 1)]
    assert of(*[1] * 20) == [(0, 16), (16, 20)]
    assert of(CHUNK_TOKENS, 1, CHUNK_TOKENS - 1, 1) == [(0, 1), (1, 3), (3, 4)]
    assert of(5 * CHUNK_TOKENS, 1) == [(0, 1), (1, 2)]


def test_what_is_refused(kjv: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="pooling: expected one of mean, last, got 'max'"):
        kjv.embed("a", pooling="max")
    with pytest.raises(TokenError, match="tokens is empty"):
        kjv.embed("")
    with pytest.raises(TokenError, match="sequence 1: tokens is empty"):
        kjv.embed(["a", ""])
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an id from 0 to 255, got 256"):
        kjv.hidden([256])
    with pytest.raises(StateError):
        kjv.hidden([1], random_model().initial_state())
    with pytest.raises(ConfigError, match="the model has no tokenizer"):
        random_model().embed("a")
    model = random_model()
    model.close()
    for call in (model.hidden, model.embed):
        with pytest.raises(ConfigError, match="expected an open model"):
            call([1])
