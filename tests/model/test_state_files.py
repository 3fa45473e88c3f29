"""States from files: saved ones, and tuned initial states of a version that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_model
from formats.foreign import safetensors_bytes
from formats.make_pth import zip_checkpoint
from rwkv7_shapes import SMALL
from rwkv56_shapes import SMALL_5, SMALL_6
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import FormatError, StateError, StorageError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state_files import load_state
from rwkv_cy.training.tensor_file import write_tensors

Array = npt.NDArray[Any]
SHAPE = (2, 64, 64)


#: Three layers and two heads of 64, in every version that has tuned states.
CONFIGS = {
    "RWKV-7": SMALL["heads of 64"],
    "RWKV-6": SMALL_6["6, heads of 64"],
    "RWKV-5.2": replace(SMALL_5["5.2"], num_layers=3),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Return a model without parameters that are zero."""
    rng = np.random.default_rng(0)
    new = LanguageModel.new(CONFIGS[request.param], rng)
    noise = {name: rng.normal(0, 0.1, parameter.shape) for name, parameter in new.parameters.items()}
    return LanguageModel(
        new.config, {name: (new.parameters[name].array + values).astype(np.float32) for name, values in noise.items()}
    )


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


def test_a_tuned_state_from_safetensors(model: LanguageModel, tmp_path: Path) -> None:
    arrays = tuned_arrays()
    state = load_state(model, write(tmp_path / "s.st", arrays))
    assert state.fingerprint == model.fingerprint
    for layer, array in zip(state.layers, arrays.values(), strict=True):
        np.testing.assert_array_equal(layer["att_kv"], array)
        assert not layer["att_xx"].any()
        assert not layer["ffn_xx"].any()
    # As if the tensors were in the model file.
    whole = LanguageModel(model.config, {**model.parameters, **arrays})
    expected = whole.forward([1, 2, 3])[0]
    np.testing.assert_array_equal(model.forward([1, 2, 3], state)[0], expected)
    assert not np.array_equal(model.forward([1, 2, 3])[0], expected)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_a_tuned_state_from_pth(model: LanguageModel, tmp_path: Path, dtype: str) -> None:
    arrays = tuned_arrays()
    stored = {name: (dtype, to_storage(array, "f32", dtype)) for name, array in arrays.items()}
    path = tmp_path / "s.pth"
    path.write_bytes(zip_checkpoint(stored).to_bytes())
    assert load_state(model, path) == load_state(model, write(tmp_path / "s.st", arrays))


def test_a_damaged_tuned_state(model: LanguageModel, tmp_path: Path) -> None:
    stored = {name: ("f32", array.astype("<f4")) for name, array in tuned_arrays().items()}
    content = bytearray(zip_checkpoint(stored).to_bytes())
    content[content.index(stored["blocks.1.att.time_state"][1].tobytes())] ^= 1
    path = tmp_path / "s.pth"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"s\.pth: blocks\.1\.att\.time_state: expected bytes with the checksum"):
        load_state(model, path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (tuned_arrays(2), "expected the time_state of 3 RWKV-[0-9.]+ layers and nothing else, got 2 tensors: missing"),
        (tuned_arrays(4), r"got 4 tensors: unexpected blocks\.3\.att\.time_state"),
        (tuned_arrays(12), "unexpected blocks.7.att.time_state; and 4 more"),
        (
            tuned_arrays(3, (2, 64, 32)),
            r"blocks.0.att.time_state: .* \(2, 64, 64\), the file \(2, 64, 32\) \(2 more have a wrong shape\)$",
        ),
        (tuned_arrays() | {"emb.weight": np.zeros((2, 2), np.float32)}, "unexpected emb.weight"),
    ],
)
def test_tuned_states_that_do_not_fit(
    model: LanguageModel, tmp_path: Path, arrays: dict[str, Array], message: str
) -> None:
    path = write(tmp_path / "s.st", arrays)
    with pytest.raises(StateError, match=message):
        load_state(model, path)


def test_a_state_that_was_tuned_on_another_version(model: LanguageModel, tmp_path: Path) -> None:
    own = model.config.architecture
    other, label = ("rwkv6", "RWKV-6") if own == "rwkv7" else ("rwkv7", "RWKV-7")
    path = tmp_path / "s.safetensors"
    write_tensors(path, tuned_arrays(), metadata={"rwkv_cy_architecture": own})
    load_state(model, path)
    write_tensors(path, tuned_arrays(), metadata={"rwkv_cy_architecture": other}, overwrite=True)
    with pytest.raises(
        StateError, match=rf"of the same version, RWKV-[0-9.]+, got states that were tuned on {label}; "
    ):
        load_state(model, path)


def test_a_version_without_tuned_states(tmp_path: Path) -> None:
    with pytest.raises(
        StateError, match=r"s.st: RWKV-4 does not support tuned states; name a file that State.save wrote"
    ):
        load_state(random_model(), write(tmp_path / "s.st", tuned_arrays()))


def test_saved_states_of_other_models(model: LanguageModel, tmp_path: Path) -> None:
    for name, other, message in (
        (
            "architecture",
            random_model(),
            f"a state with the model's architecture, {model.config.architecture}, got rwkv4",
        ),
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
