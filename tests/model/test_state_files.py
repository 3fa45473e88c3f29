"""States from files: saved ones, and tuned initial states of a version that has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_model
from formats.foreign import safetensors_bytes
from formats.make_pth import zip_checkpoint
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.architectures.builders import constant
from rwkv_cy.architectures.rwkv4 import RWKV4
from rwkv_cy.config import Config
from rwkv_cy.dtypes import to_storage, widen
from rwkv_cy.errors import FormatError, StateError, StorageError
from rwkv_cy.model.state import State
from rwkv_cy.model.state_files import load_state
from rwkv_cy.tensors.tensor import Parameter

Array = npt.NDArray[Any]
SHAPE = (2, 3, 4)  # of 24 channels


class Tuned(RWKV4):
    """RWKV-4 with a tuned initial state: att_aa of each layer, as heads of a matrix."""

    name = "tuned4"
    label = "RWKV-4 with time_state"

    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        tuned = ParameterSpec("att.time_state", SHAPE, "state", constant(0.0, *SHAPE), optional=True)
        return (*super().layer_parameters(config, layer), tuned)

    def initial_state(self, config: Config, parameters: Mapping[str, Parameter]) -> npt.NDArray[np.float64]:
        state = super().initial_state(config, parameters)
        start = self.state_offsets(config)["att_aa"]
        for i, row in enumerate(state):
            tuned = parameters.get(f"blocks.{i}.att.time_state")
            if tuned is not None:
                row[start : start + config.d_att] = widen(tuned.array, tuned.dtype, "f64").reshape(-1)
        return state


class StandIn:
    """A model of three layers whose version has tuned states; it cannot run."""

    config = Config(architecture=Tuned.name, d_model=24, num_layers=3, vocab_size=50)

    def initial_state(self) -> State:
        fields = ARCHITECTURES[Tuned.name].state_fields(self.config)
        return State.initial(Tuned.name, fields, self.config.num_layers, "f32", "of the model")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setitem(ARCHITECTURES, Tuned.name, Tuned())
    return StandIn()


def tuned_arrays(layers: int = 3, shape: tuple[int, ...] = SHAPE) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        f"blocks.{i}.att.time_state": rng.integers(-8, 9, shape).astype(np.float32) / 4  # exact in every type
        for i in range(layers)
    }


def write(path: Path, arrays: dict[str, Array]) -> Path:
    path.write_bytes(safetensors_bytes(arrays))
    return path


def test_a_saved_state(tmp_path: Path) -> None:
    model = random_model()
    _, state = model.forward([1, 2, 3])
    state.save(tmp_path / "s.h5")
    again = load_state(model, str(tmp_path / "s.h5"))
    assert again == state
    np.testing.assert_array_equal(model.forward(4, again)[0], model.forward(4, state)[0])


def test_a_tuned_state_from_safetensors(model: StandIn, tmp_path: Path) -> None:
    arrays = tuned_arrays()
    state = load_state(model, write(tmp_path / "s.st", arrays))
    assert state.fingerprint == "of the model"
    for layer, array in zip(state.layers, arrays.values(), strict=True):
        assert layer["att_aa"].tolist() == array.reshape(-1).tolist()
        assert not layer["att_xx"].any()


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_a_tuned_state_from_pth(model: StandIn, tmp_path: Path, dtype: str) -> None:
    arrays = tuned_arrays()
    stored = {name: (dtype, to_storage(array, "f32", dtype)) for name, array in arrays.items()}
    path = tmp_path / "s.pth"
    path.write_bytes(zip_checkpoint(stored).to_bytes())
    assert load_state(model, path) == load_state(model, write(tmp_path / "s.st", arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (tuned_arrays(2), "the time_state of 3 RWKV-4 with time_state layers and nothing else, got 2 tensors: missing"),
        (tuned_arrays(4), r"got 4 tensors: unexpected blocks\.3\.att\.time_state"),
        (tuned_arrays(12), "unexpected blocks.7.att.time_state; and 4 more"),
        (
            tuned_arrays(3, (3, 2, 4)),
            r"blocks.0.att.time_state: the model has \(2, 3, 4\), the file \(3, 2, 4\)",
        ),
        (tuned_arrays() | {"emb.weight": np.zeros((2, 2), np.float32)}, "unexpected emb.weight"),
    ],
)
def test_tuned_states_that_do_not_fit(model: StandIn, tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    path = write(tmp_path / "s.st", arrays)
    with pytest.raises(StateError, match=message):
        load_state(model, path)


def test_a_version_without_tuned_states(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"s.st: RWKV-4 has no tuned initial state; name a file that State.save wrote"):
        load_state(random_model(), write(tmp_path / "s.st", tuned_arrays()))


def test_saved_states_of_other_models(model: StandIn, tmp_path: Path) -> None:
    for name, other, message in (
        ("architecture", random_model(), "expected a state with the model's architecture, tuned4, got rwkv4"),
        ("layers", random_model(num_layers=2), "expected a state with the model's number of layers, 3, got 2"),
        ("width", random_model(d_model=48), r"the model's arrays, ffn_xx \(24,\), .* got ffn_xx \(48,\)"),
        ("type", random_model("f64"), "the model's type, float32, got float64"),
        ("model", random_model(seed=1), "expected a state of this model .* got one of another model with the same"),
    ):
        path = tmp_path / f"{name}.h5"
        other.forward(1)[1].save(path)
        with pytest.raises(StateError, match=message):
            load_state(model if name == "architecture" else random_model(), path)


def test_files_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(FormatError):
        load_state(random_model(), tmp_path / "x")
    with pytest.raises(StorageError):
        load_state(random_model(), tmp_path / "none")
