"""One model in every layout of the RWKV ecosystem: each file is recognised and gives the same output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import (
    SHARD_INDEX,
    Array,
    huggingface_name,
    rwkv4_parameters,
    rwkvcpp_bytes,
    safetensors_bytes,
    squeezed,
    write_shards,
)
from formats.make_pth import STORAGES, archive, dictionary, legacy_checkpoint, storage, tensor, zip_checkpoint
from rwkv_cy.dtypes import STORAGE_TYPES, widen
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.formats import open_checkpoint

Parameters = dict[str, Array]
#: Writes the model into a folder, and returns what the user would name.
Writer = Callable[[Path, Parameters], Path]


def plain(folder: Path, data: bytes) -> Path:
    (folder / "model").write_bytes(data)
    return folder / "model"


def theirs(parameters: Parameters) -> Parameters:
    return {huggingface_name(name): array for name, array in parameters.items()}


def storages(parameters: Parameters) -> dict[str, tuple[str, Array]]:
    return {name: ("f32", array) for name, array in parameters.items()}


def column_major(parameters: Parameters) -> bytes:
    """A checkpoint whose tensors were saved as transposes: each storage holds them column by column."""
    body = {
        name: tensor(
            storage(STORAGES["f32"], str(key), array.size),
            array.shape,
            [s // 4 for s in np.asfortranarray(array).strides],
        )
        for key, (name, array) in enumerate(parameters.items())
    }
    return archive(dictionary(body), [array.tobytes("F") for array in parameters.values()]).to_bytes()


def huggingface_folder(folder: Path, parameters: Parameters) -> Path:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(theirs(parameters)))
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    return folder


def pickled_folder(folder: Path, parameters: Parameters) -> Path:
    (folder / "pytorch_model.bin").write_bytes(zip_checkpoint(storages(theirs(parameters))).to_bytes())
    return folder


def sharded_folder(folder: Path, parameters: Parameters) -> Path:
    write_shards(folder, theirs(parameters))
    return folder


def shard_index(folder: Path, parameters: Parameters) -> Path:
    return sharded_folder(folder, parameters) / SHARD_INDEX


WRITERS: dict[str, tuple[str, Writer]] = {
    "safetensors": ("safetensors", lambda folder, p: plain(folder, safetensors_bytes(p))),
    "safetensors of web-rwkv": (
        "safetensors",
        lambda folder, p: plain(
            folder, safetensors_bytes({n.lower(): a.astype("<f2") for n, a in squeezed(p).items()}, {"format": "pt"})
        ),
    ),
    "safetensors of transformers": ("safetensors", lambda folder, p: plain(folder, safetensors_bytes(theirs(p)))),
    "pth": ("pth", lambda folder, p: plain(folder, zip_checkpoint(storages(p)).to_bytes())),
    "pth, column-major": ("pth", lambda folder, p: plain(folder, column_major(p))),
    "pth of transformers": ("pth", lambda folder, p: plain(folder, zip_checkpoint(storages(theirs(p))).to_bytes())),
    "legacy pth": ("pth-legacy", lambda folder, p: plain(folder, legacy_checkpoint(storages(p)))),
    "rwkv.cpp": ("rwkvcpp", lambda folder, p: plain(folder, rwkvcpp_bytes(p))),
    "rwkv.cpp, version 100": ("rwkvcpp", lambda folder, p: plain(folder, rwkvcpp_bytes(p, "fp16", 100))),
    "folder": ("huggingface", huggingface_folder),
    "folder of a pickle": ("huggingface", pickled_folder),
    "folder of shards": ("huggingface", sharded_folder),
    "index of shards": ("safetensors", shard_index),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_says_the_same(tmp_path: Path, layout: str) -> None:
    expected_format, write = WRITERS[layout]
    parameters = rwkv4_parameters()
    with open_checkpoint(write(tmp_path, parameters)) as source:
        assert source.format == expected_format
        assert set(source.names()) == set(parameters)
        for name, array in parameters.items():
            info = source.info(name)
            assert (info.name, info.shape) == (name, array.shape)
            buffer = np.empty(info.size, STORAGE_TYPES[info.dtype].array_dtype)
            source.read_into(name, buffer)
            bound = 5e-4 if info.dtype == "f16" else 2e-7 if name.endswith(".time_decay") else 0.0
            error = np.abs(widen(buffer, info.dtype).reshape(info.shape) - array).max()
            assert error <= bound * np.abs(array).max(), name


def test_a_pointer_where_the_weights_should_be(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UnsupportedError, match=r"model\.safetensors: expected a checkpoint, got a Git LFS pointer"):
        open_checkpoint(tmp_path)


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    (tmp_path / SHARD_INDEX).write_text(json.dumps({"weight_map": {"a": SHARD_INDEX}}))
    with pytest.raises(UnsupportedError, match=r"index\.json: expected a checkpoint, got a JSON text"):
        open_checkpoint(tmp_path)
