"""Models that are saved: what a file gives back, for every version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_cy import Config, LanguageModel, load, verify
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.errors import StorageError
from rwkv_cy.text.tokenizers import find_tokenizer


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


def test_a_quantized_model_saved_again(tmp_path: Path, demo_checkpoint: Path) -> None:
    model = load(demo_checkpoint, dtype="q4")
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
