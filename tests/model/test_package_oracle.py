"""RWKV-5, 6, 7 and 7a against the authors' package: all parameters non-neutral, in usual and unusual shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import REFERENCES, every_logits, tokens_for
from rwkv7_shapes import RELEASED_01B, SMALL, SMALL_7A_32
from rwkv56_shapes import RELEASED_04B, SMALL_5, SMALL_6
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State
from rwkv_package import LayerState, PackageModel, assert_close

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

CONFIGS = {**SMALL_5, **SMALL_6, **SMALL, **SMALL_7A_32, "5.2, 0.4B": RELEASED_04B, "7, 0.1B": RELEASED_01B}
TOKENS = 200


class Case:
    """A model, tokens, and what the package makes of them."""

    def __init__(self, folder: Path, name: str) -> None:
        parameters = random_checkpoint(CONFIGS[name], seed=3)
        self.model = LanguageModel(CONFIGS[name], parameters)
        self.tokens = tokens_for(self.model, TOKENS)
        self.logits, self.states = PackageModel(folder, parameters).forward(self.tokens)
        self.path = folder / "model.pth"

    def check(self, logits: np.ndarray, state: State) -> None:
        assert_close(logits, self.logits)
        self.check_state(state, self.states)

    @staticmethod
    def check_state(state: State, expected: list[LayerState]) -> None:
        for layer, expected_layer in zip(state.layers, expected, strict=True):
            for field, array in layer.items():
                assert_close(array, expected_layer[field])


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("package"), request.param)


def test_the_file_that_torch_wrote(case: Case) -> None:
    model = load(case.path)
    assert model.config == case.model.config
    tokens = case.tokens[:40]
    assert every_logits(model, tokens)[0].tobytes() == every_logits(case.model, tokens)[0].tobytes()
    assert not any(parameter.array.flags.writeable for name, parameter in model.parameters.items() if "emb." in name)


def test_single_tokens(case: Case) -> None:
    rows, state = [], None
    for token in case.tokens:
        logits, state = case.model.forward(token, state, in_place=True)
        rows.append(logits)
    assert state is not None
    case.check(np.array(rows), state)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_sequence(case: Case, threads: int) -> None:
    case.check(*every_logits(case.model, case.tokens, num_threads=threads))


@pytest.mark.parametrize("at", [1, 77, TOKENS - 1])
def test_a_sequence_in_two_parts(case: Case, at: int) -> None:
    first, state = every_logits(case.model, case.tokens[:at])
    second, state = every_logits(case.model, case.tokens[at:], state)
    case.check(np.concatenate([first, second]), state)


def test_a_batch(case: Case) -> None:
    logits, states = case.model.forward_batch([case.tokens, case.tokens[:50], case.tokens[:51]])
    assert_close(logits, case.logits[[TOKENS - 1, 49, 50]])
    case.check_state(states[0], case.states)


def test_decays_of_any_size(tmp_path: Path) -> None:
    """In RWKV-6 nothing bounds the logits of the decay: heads that keep everything, and that forget at every token."""
    config = SMALL_6["6, C 96 with heads of 32"]
    parameters = random_checkpoint(config, seed=3)
    for i in range(config.num_layers):
        parameters[f"blocks.{i}.att.time_decay"][..., ::3] -= 30
        parameters[f"blocks.{i}.att.time_decay"][..., 1::3] += 12
        parameters[f"blocks.{i}.att.time_decay"][..., 1::9] += 90
    model = LanguageModel(config, parameters)
    tokens = tokens_for(model, TOKENS)
    expected, states = PackageModel(tmp_path, parameters).forward(tokens)
    logits, state = every_logits(model, tokens, num_threads=2)
    assert_close(logits, expected)
    Case.check_state(state, states)
    reference, _ = REFERENCES[config.architecture](parameters, config, tokens)
    assert_close(logits, reference)


@pytest.mark.parametrize("axes", [1, 2])
def test_numbers_of_heads(tmp_path: Path, axes: int) -> None:
    """RWKV-5.1 whose decay is a column is 5.1, and gives what 5.2 with equal columns gives."""
    config = SMALL_5["5.1"]
    parameters = random_checkpoint(config, seed=3)
    by_head = [name for name in parameters if name.endswith(("time_decay", "time_faaaa"))]
    theirs = {
        name: array.reshape(-1, 1) if name in by_head and axes == 2 else array for name, array in parameters.items()
    }
    model = load(write_safetensors(tmp_path / "model.safetensors", theirs))
    assert model.config == config
    tokens = tokens_for(model, TOKENS)
    expected, states = PackageModel(tmp_path, theirs).forward(tokens)
    logits, state = every_logits(model, tokens)
    assert_close(logits, expected)
    Case.check_state(state, states)
    wide = {
        name: np.repeat(array.reshape(-1, 1), config.head_size, axis=1) if name in by_head else array
        for name, array in parameters.items()
    }
    other = LanguageModel(replace(config, architecture="rwkv5.2"), wide)
    same, same_state = every_logits(other, tokens)
    assert same.tobytes() == logits.tobytes()
    assert same_state.data.tobytes() == state.data.tobytes()


@pytest.mark.parametrize("name", ["5.0", "5.1"])
def test_a_bonus_as_its_logarithm(tmp_path: Path, name: str) -> None:
    """The first checkpoints of RWKV-5 have time_first."""
    parameters = {
        name.replace("time_faaaa", "time_first"): array
        for name, array in random_checkpoint(SMALL_5[name], seed=3, optional=False).items()
    }
    model = load(write_safetensors(tmp_path / "model.safetensors", parameters))
    assert model.config == SMALL_5[name]
    tokens = tokens_for(model, TOKENS)
    expected, states = PackageModel(tmp_path, parameters).forward(tokens)
    logits, state = every_logits(model, tokens)
    assert_close(logits, expected)
    Case.check_state(state, states)
