"""Every parameter of every architecture matters; optional ones may be missing; initial values are finite."""

from __future__ import annotations

import numpy as np

from checkpoints import random_checkpoint
from contracts.cases import every_logits, tokens_for
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel

#: A change below this, relative to the largest logit, would pass the comparison with the reference.
VISIBLE = 1e-4


def test_every_parameter_moves_the_logits(config: Config) -> None:
    parameters = random_checkpoint(config)
    usual = LanguageModel(config, parameters)
    tokens = tokens_for(usual, 12)
    expected, _ = every_logits(usual, tokens)
    rng = np.random.default_rng(99)  # not the seed of the parameters: the embedding would only grow
    for spec in architecture_of(config).parameters(config):
        array = parameters[spec.name]
        noise = rng.standard_normal(array.shape).astype(array.dtype)
        moved = {**parameters, spec.name: array + 0.1 * np.abs(array).mean() * noise}
        logits, _ = every_logits(LanguageModel(config, moved, fingerprint="moved"), tokens)
        if spec.optional and spec.kind != "state":
            assert logits.tobytes() == expected.tobytes(), f"{spec.name} may be missing, and should have no effect"
        else:
            assert np.abs(logits - expected).max() > VISIBLE * np.abs(expected).max(), spec.name


def test_what_may_be_missing_changes_no_bit(config: Config) -> None:
    specs = architecture_of(config).parameters(config)
    states = {spec.name for spec in specs if spec.kind == "state"}
    without_states = {name: array for name, array in random_checkpoint(config).items() if name not in states}
    optional = {spec.name for spec in specs if spec.optional}
    required = {name: array for name, array in without_states.items() if name not in optional}
    model = LanguageModel(config, without_states)
    tokens = tokens_for(model, 12)
    expected, _ = every_logits(model, tokens)
    logits, _ = every_logits(LanguageModel(config, required), tokens)
    assert logits.tobytes() == expected.tobytes()
    fresh = LanguageModel(config, required).initial_state()
    for field in architecture_of(config).state_fields(config):
        assert all((layer[field.name] == np.float32(field.initial)).all() for layer in fresh.layers)


def test_a_tuned_state_is_where_a_sequence_begins(config: Config) -> None:
    parameters = random_checkpoint(config)
    model = LanguageModel(config, parameters)
    tokens = tokens_for(model, 12)
    expected, after = every_logits(model, tokens)
    logits, state = every_logits(model, tokens, model.initial_state())
    assert logits.tobytes() == expected.tobytes()
    assert state == after
    batch, states = model.forward_batch([tokens, tokens[:3]])
    assert batch[0].tobytes() == expected[-1].tobytes()
    assert states[0] == after
    tuned = architecture_of(config).initial_state(config, model.parameters).astype(np.float32)
    assert model.initial_state().data.tobytes() == tuned.tobytes()


def test_a_new_model_computes_finite_logits(config: Config) -> None:
    one, same, other = (LanguageModel.new(config, seed) for seed in (1, 1, 2))
    tokens = tokens_for(one, 12)
    logits, _ = every_logits(one, tokens)
    assert np.isfinite(logits).all()
    assert logits.tobytes() == every_logits(same, tokens)[0].tobytes()
    assert logits.tobytes() != every_logits(other, tokens)[0].tobytes()
