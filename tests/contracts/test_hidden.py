"""Hidden states after ln_out, of tokens and pooled to vectors of texts, against the reference implementations."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import REFERENCES, dense, every_logits, tokens_for, tolerance_of
from rwkv_cy.config import Config
from rwkv_cy.errors import NumericalError
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel

LENGTH = 70


def reference_hidden(model: LanguageModel, tokens: list[int]) -> np.ndarray:
    """Return the hidden states of the reference implementation: its logits, with the identity as its head."""
    parameters = {name: dense(parameter) for name, parameter in model.parameters.items()}
    parameters["head.weight"] = np.eye(model.config.d_model)
    return REFERENCES[model.config.architecture](parameters, model.config, tokens)[0]


def test_hidden_states_of_the_reference(model: LanguageModel, dtype: str) -> None:
    tokens = tokens_for(model, LENGTH)
    expected = reference_hidden(model, tokens)
    hidden, state = model.hidden(tokens)
    assert hidden.shape == (LENGTH, model.config.d_model)
    assert hidden.dtype == (np.float64 if dtype == "f64" else np.float32)
    assert np.abs(hidden - expected).max() <= tolerance_of(model.config, dtype) * np.abs(expected).max()
    assert state == every_logits(model, tokens)[1]


def test_parts_and_threads_give_the_same_bits(model: LanguageModel) -> None:
    tokens = tokens_for(model, LENGTH)
    expected, after = model.hidden(tokens, num_threads=1)
    first, state = model.hidden(tokens[:33])
    second, state = model.hidden(tokens[33:], state, in_place=True, num_threads=3)
    assert first.tobytes() + second.tobytes() == expected.tobytes()
    assert state == after


def test_pooled_vectors_of_the_reference(model: LanguageModel, dtype: str) -> None:
    tokens = tokens_for(model, LENGTH)
    expected, tolerance = reference_hidden(model, tokens), tolerance_of(model.config, dtype)
    for pooling, vector in (("mean", expected.mean(axis=0)), ("last", expected[-1])):
        found = model.embed(tokens, pooling=pooling)
        assert found.shape == (model.config.d_model,)
        assert np.abs(found - vector).max() <= tolerance * np.abs(expected).max()
        length = float(np.linalg.norm(model.embed(tokens, pooling=pooling, normalize=True)))
        assert length == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_do_not_depend_on_the_other_texts(config: Config, pooling: str) -> None:
    model = LanguageModel(config, random_checkpoint(config))
    lengths = (3, CHUNK_TOKENS + 40, 1, 17, *([5] * 40), CHUNK_TOKENS)
    texts = [tokens_for(model, length, seed) for seed, length in enumerate(lengths)]
    vectors = model.embed(texts, pooling=pooling)
    assert vectors.shape == (len(texts), config.d_model)
    for vector, tokens in zip(vectors, texts, strict=True):
        assert vector.tobytes() == model.embed(tokens, pooling=pooling, num_threads=1).tobytes()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("blocks.1.ffn.value.weight", "token 7 at 0: expected finite numbers, layer 1 gave NaN"),
        ("ln_out.weight", "expected finite hidden states, ln_out gave NaN or infinity"),
    ],
)
def test_nan_is_traced_to_its_layer_or_to_ln_out(config: Config, parameter: str, message: str) -> None:
    parameters = random_checkpoint(config)
    parameters[parameter].reshape(-1)[3] = np.nan
    model = LanguageModel(config, parameters)
    with pytest.raises(NumericalError, match=message):
        model.hidden([7, 8])
    with pytest.raises(NumericalError, match=f"sequence 0: {message}"):
        model.embed([[7, 8], [1]])


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_text_with_nan_is_named(config: Config, pooling: str) -> None:
    parameters = random_checkpoint(config)
    parameters["emb.weight"][9, 3] = np.nan
    model = LanguageModel(config, parameters)
    with pytest.raises(NumericalError, match=r"sequence 20: token 9 at 1: its row of emb\.weight is not finite"):
        model.embed([*[[7]] * 20, [7, 9]], pooling=pooling)
