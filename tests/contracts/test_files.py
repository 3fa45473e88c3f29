"""Models and states written to files and read back have the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, every_logits, tokens_for
from contracts.conftest import Loader
from rwkv_cy.errors import StateError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

STORED = ["f64", "f32", "f16", "bf16", "bf12", "q8", "q6", "q4"]


@pytest.fixture(scope="module", params=STORED)
def stored_dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=CONFIGS)
def stored_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def converted(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], stored_name: str, stored_dtype: str
) -> Path:
    """Return a model file of each model in each storage type; tests only read it."""
    path = tmp_path_factory.mktemp("converted") / "model.h5"
    convert(checkpoints[stored_name], path, dtype=stored_dtype)
    return path


def test_a_model_file_gives_the_same_bits_mapped_and_in_memory(converted: Path) -> None:
    path = converted
    assert verify(path).ok
    mapped, resident = load(path), load(path, mmap=False)
    report = inspect(path)
    assert not report.problems
    assert report.config == mapped.config == resident.config
    tokens = tokens_for(mapped, 20)
    expected, state = every_logits(mapped, tokens)
    logits, same = every_logits(resident, tokens)
    assert logits.tobytes() == expected.tobytes()
    assert state == same


def test_a_model_file_and_its_checkpoint_give_the_same_bits(
    converted: Path, checkpoints: dict[str, Path], stored_name: str, stored_dtype: str
) -> None:
    ours, direct = load(converted), load(checkpoints[stored_name], dtype=stored_dtype)
    assert ours.config == direct.config
    tokens = tokens_for(direct, 20)
    assert every_logits(ours, tokens)[0].tobytes() == every_logits(direct, tokens)[0].tobytes()


def test_what_may_be_missing_may_be_missing_in_files(tmp_path: Path, name: str) -> None:
    config = CONFIGS[name]
    parameters = random_checkpoint(config, optional=False)
    checkpoint = write_safetensors(tmp_path / "model.safetensors", parameters)
    direct = load(checkpoint, rescale_layer=config.rescale_layer)
    assert set(direct.parameters) == set(parameters)
    assert direct.config == config
    tokens = tokens_for(direct, 20)
    expected, _ = every_logits(LanguageModel(config, parameters), tokens)
    assert every_logits(direct, tokens)[0].tobytes() == expected.tobytes()
    path = tmp_path / "model.h5"
    convert(checkpoint, path)
    assert verify(path).ok
    assert not inspect(path).problems
    converted = load(path, rescale_layer=config.rescale_layer)
    assert set(converted.parameters) == set(parameters)
    assert every_logits(converted, tokens)[0].tobytes() == expected.tobytes()


def test_a_model_file_of_the_checkpoint_as_it_is_holds_its_numbers(
    tmp_path: Path, checkpoints: dict[str, Path], name: str
) -> None:
    path = tmp_path / "model.h5"
    convert(checkpoints[name], path)
    ours, theirs = load(path), load(checkpoints[name])
    assert ours.fingerprint == theirs.fingerprint
    assert ours.parameters.keys() == theirs.parameters.keys()
    tokens = tokens_for(ours, 20)
    logits, state = every_logits(ours, tokens)
    expected, expected_state = every_logits(theirs, tokens)
    assert logits.tobytes() == expected.tobytes()
    assert state == expected_state


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_state_goes_on_from_a_file_as_it_would_have(
    tmp_path: Path, load_model: Loader, name: str, dtype: str
) -> None:
    model = load_model(name, dtype)
    _, state = model.forward(tokens_for(model, 20))
    path = tmp_path / "state.h5"
    state.save(path)
    loaded = State.load(path)
    assert loaded == state
    assert loaded.fields == state.fields
    tokens = tokens_for(model, 5, seed=2)
    logits, after = model.forward(tokens, loaded, in_place=True)
    expected, expected_after = model.forward(tokens, state)
    assert logits.tobytes() == expected.tobytes()
    assert after == expected_after


def test_states_of_other_models_are_refused(load_model: Loader, name: str) -> None:
    model = load_model(name, "f32")
    for other in CONFIGS:
        if other != name:
            _, state = load_model(other, "f32").forward([1])
            with pytest.raises(StateError, match="state: expected one of "):
                model.forward([1], state)
    double = load_model(name, "f64").initial_state()
    with pytest.raises(StateError, match="in float32, got"):
        model.forward([1], double)
