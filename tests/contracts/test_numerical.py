"""NaN and Inf are detected and traced to their origin."""

from __future__ import annotations

import re

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import tokens_for
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.errors import NumericalError, StateError
from rwkv_cy.model.language_model import LanguageModel


def test_nan_in_any_matrix_is_traced_to_its_layer(config: Config) -> None:
    parameters = random_checkpoint(config)
    for layer in range(config.num_layers):
        for spec in architecture_of(config).layer_parameters(config, layer):
            if spec.kind != "matrix":
                continue
            name = f"blocks.{layer}.{spec.name}"
            broken = {**parameters, name: parameters[name].copy()}
            broken[name][1, 2] = np.nan
            model = LanguageModel(config, broken)
            with pytest.raises(NumericalError, match=f"token 7 at 0: expected finite numbers, layer {layer} gave NaN"):
                model.forward([7, 8, 9])
            with pytest.raises(NumericalError, match=f"sequence 0: token 7 at 0: .* layer {layer} gave NaN"):
                model.forward_batch([[7, 8, 9], [1]])


def test_a_token_with_nan_in_its_embedding_is_named(config: Config) -> None:
    parameters = random_checkpoint(config)
    parameters["emb.weight"][9, 3] = np.nan
    model = LanguageModel(config, parameters)
    _, state = model.forward([7, 8])
    with pytest.raises(NumericalError, match=r"token 9 at 1: its row of emb\.weight is not finite"):
        model.forward([8, 9, 7], state)
    assert np.isfinite(model.forward([7, 8], state)[0]).all()


def test_a_token_with_nan_in_a_table_is_named(config: Config) -> None:
    for spec in architecture_of(config).parameters(config):
        if spec.kind != "table":
            continue
        parameters = random_checkpoint(config)
        parameters[spec.name][9, 3] = np.nan
        model = LanguageModel(config, parameters)
        _, state = model.forward([7, 8])
        with pytest.raises(NumericalError, match=rf"token 9 at 1: its row of {re.escape(spec.name)} is not finite"):
            model.forward([8, 9], state)
        assert np.isfinite(model.forward([7, 8], state)[0]).all()


def test_a_state_with_nan_is_noticed(config: Config) -> None:
    model = LanguageModel(config, random_checkpoint(config))
    for field in architecture_of(config).state_fields(config):
        _, state = model.forward(tokens_for(model, 5))
        state.layers[1][field.name].reshape(-1)[0] = np.nan
        with pytest.raises(NumericalError, match="expected a finite state, got NaN or infinity in it"):
            model.forward([1], state)


def test_a_state_whose_update_in_place_failed_is_refused(config: Config) -> None:
    parameters = random_checkpoint(config)
    parameters["emb.weight"][9, 3] = np.nan
    model = LanguageModel(config, parameters)
    _, state = model.forward([7, 8])
    with pytest.raises(NumericalError):
        model.forward([9], state, in_place=True)
    with pytest.raises(StateError):
        model.forward([7], state)
