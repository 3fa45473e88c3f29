"""Checkpoint: settings that Config takes from the file, and layouts that the kernels cannot use."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_small
from formats import foreign
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.model.language_model import load
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.toolkit.convert import convert


def folder(path: Path, epsilon: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "rwkv", "layer_norm_epsilon": epsilon}))
    (path / "model.safetensors").write_bytes(foreign.safetensors_bytes(foreign.huggingface_parameters()))
    return path


def test_eps_of_a_hugging_face_folder_is_used_and_kept(tmp_path: Path) -> None:
    source, target = folder(tmp_path / "hf", 0.25), tmp_path / "model.h5"
    model = load(source)
    assert model.config.layer_norm_eps == 0.25
    convert(source, target)
    converted = load(target)
    assert converted.config == model.config
    logits, _ = model.forward([1, 2])
    assert (converted.forward([1, 2])[0] == logits).all()
    assert (load(folder(tmp_path / "usual", 1e-5)).forward([1, 2])[0] != logits).any()


@pytest.mark.parametrize(
    ("epsilon", "message"),
    [
        ("small", "hf: layer_norm_epsilon: expected a number, got 'small'; the file is damaged"),
        ("nan", r"hf: Config\.layer_norm_eps: expected a positive number, got nan; the file is damaged"),
        (-1.0, r"hf: Config\.layer_norm_eps: expected a positive number, got -1\.0; the file is damaged"),
    ],
)
def test_an_impossible_eps_is_refused(tmp_path: Path, epsilon: object, message: str) -> None:
    with (
        pytest.raises(FormatError, match=message),
        open_source(folder(tmp_path / "hf", epsilon)) as source,
    ):
        _ = Checkpoint(source).config


def test_an_embedding_in_blocks_is_refused(tmp_path: Path) -> None:
    """convert never writes one, and no kernel reads a row of one."""
    convert(write_small(tmp_path / "s"), tmp_path / "m")
    with open_model(tmp_path / "m") as model:
        infos = [model.info(name) for name in model.names()]
        changed = [
            TensorInfo(info.name, info.shape, "q8", "", "q8", 0) if info.name == "emb.weight" else info
            for info in infos
        ]

        def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
            whole = np.zeros(math.prod(info.array_shape), "u1" if info.dtype == "q8" else "<f4")
            return whole[start : start + count]

        write_model(tmp_path / "forged", model.header, changed, read)
    with (
        open_source(tmp_path / "forged") as source,
        pytest.raises(SpecError, match="emb.weight: expected a floating point type, got q8; convert the orig"),
    ):
        _ = Checkpoint(source).config
