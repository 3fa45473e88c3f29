"""Models that are saved: what a file gives back, for every version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rwkv_cy import Config, LanguageModel, State, inspect, load, verify
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.errors import FormatError, StorageError, UnsupportedError
from rwkv_cy.text.tokenizers import find_tokenizer

pytestmark = pytest.mark.usefixtures("structure_checked_here")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("compute_dtype", ["f32", "f64"])
def test_a_new_model_saved_and_loaded_gives_the_same_bits(tmp_path: Path, name: str, compute_dtype: str) -> None:
    config = Config(architecture=name, d_model=64, num_layers=2, vocab_size=256, compute_dtype=compute_dtype)
    model = LanguageModel.new(config, rng=1, tokenizer=find_tokenizer("bytes"))
    model.save(tmp_path / "m.h5")
    assert verify(tmp_path / "m.h5").problems == ()
    with load(tmp_path / "m.h5") as again:
        assert again.config == model.config
        assert again.fingerprint == model.fingerprint
        assert again.tokenizer is not None
        expected, state = model.forward([1, 2, 3])
        logits, same = again.forward([1, 2, 3])
        assert logits.tobytes() == expected.tobytes()
        assert same == state


def test_a_quantized_model_saved_again(tmp_path: Path, kjv_checkpoint: Path) -> None:
    model = load(kjv_checkpoint, dtype="q4")
    model.save(tmp_path / "q4.h5")
    logits, _ = load(tmp_path / "q4.h5").forward([72, 101])
    assert np.array_equal(logits, model.forward([72, 101])[0])
    with pytest.raises(StorageError, match="already exists"):
        model.save(tmp_path / "q4.h5")
    model.save(tmp_path / "q4.h5", overwrite=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"group_norm_eps": 16e-5},
        {"layer_norm_eps": 1e-6},
        {"rescale_layer": 1},
        {"num_layers": 1, "ranks": {"w": 5, "a": 7, "v": 3, "g": 11}},
        {"d_ffn": 100, "d_att": 32, "head_size": 16},
    ],
    ids=str,
)
def test_every_setting_survives(tmp_path: Path, changed: dict[str, Any]) -> None:
    config = Config(architecture="rwkv7", **{"d_model": 64, "num_layers": 2, "vocab_size": 40, **changed})
    model = LanguageModel.new(config, rng=1)
    model.save(tmp_path / "m.h5")
    with load(tmp_path / "m.h5") as again:
        assert again.config == model.config
        assert again.forward([1, 2])[0].tobytes() == model.forward([1, 2])[0].tobytes()


def test_only_a_model_file_is_replaced(tmp_path: Path, kjv_checkpoint: Path) -> None:
    model = load(kjv_checkpoint)
    for name, content in (("victim.pth", kjv_checkpoint.read_bytes()), ("notes.txt", b"important")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StorageError, match=f"{name} is not a model file; choose another name"):
            model.save(tmp_path / name, overwrite=True)
        assert (tmp_path / name).read_bytes() == content
    state = tmp_path / "state.h5"
    model.forward([1])[1].save(state)
    with pytest.raises(StorageError, match="is not a model file"):
        model.save(state, overwrite=True)
    (tmp_path / "empty").touch()
    model.save(tmp_path / "empty", overwrite=True)
    assert verify(tmp_path / "empty").ok


def test_a_damaged_model_file_is_replaced(tmp_path: Path, kjv_checkpoint: Path) -> None:
    model, path = load(kjv_checkpoint), tmp_path / "m.h5"
    model.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:4096], whole[:-4096] + bytes(4096), whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            load(path)
        model.save(path, overwrite=True)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"format\0rwkv-cy\0kind\0model"])
def test_another_hdf5_file_is_not_replaced(tmp_path: Path, kjv_checkpoint: Path, content: bytes) -> None:
    path = tmp_path / "keras.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "keras"
        file.attrs["kind"] = "model"
        file["weights"] = np.arange(9000)
    path.write_bytes(content + path.read_bytes())
    before = path.read_bytes()
    with pytest.raises(StorageError, match="is not a model file"):
        load(kjv_checkpoint).save(path, overwrite=True)
    assert path.read_bytes() == before


def test_only_a_state_file_is_replaced(tmp_path: Path, kjv_checkpoint: Path) -> None:
    model = load(kjv_checkpoint)
    path = tmp_path / "m.h5"
    model.save(path)
    before = path.read_bytes()
    first, second = model.forward([1])[1], model.forward([2])[1]
    with pytest.raises(StorageError, match=r"m\.h5 is not a state file; choose another name"):
        first.save(path, overwrite=True)
    assert path.read_bytes() == before
    first.save(tmp_path / "s.h5")
    second.save(tmp_path / "s.h5", overwrite=True)
    assert model.load_state(tmp_path / "s.h5") == second


def test_states_and_models_are_not_confused(tmp_path: Path, kjv_checkpoint: Path) -> None:
    model = load(kjv_checkpoint)
    model.save(tmp_path / "m.h5")
    model.forward([1])[1].save(tmp_path / "s.h5")
    for read in (load, verify, inspect):
        with pytest.raises(UnsupportedError, match=r"s\.h5 is a state, not a model; use it with --state \(load_state"):
            read(tmp_path / "s.h5")
    for read in (model.load_state, State.load):
        with pytest.raises(UnsupportedError, match=r"m\.h5 is a model, not a state"):
            read(tmp_path / "m.h5")
    with pytest.raises(FormatError, match="not a file that State.save wrote; .* with model.load_state"):
        State.load(kjv_checkpoint)
