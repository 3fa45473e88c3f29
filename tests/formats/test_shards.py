"""Shards: tensors of several files as one source, and an index that cannot point outside of the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bits import flips, sampled, with_flip
from formats.foreign import SHARD_INDEX, huggingface_parameters, safetensors_bytes, write_index, write_shards
from rwkv_cy.errors import FormatError, RWKVError, StorageError
from rwkv_cy.formats import shards
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.formats.shards import open_shards
from rwkv_cy.tensors.tensor import ParameterSource


def test_the_index_alone(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, huggingface_parameters())
    with open_shards(tmp_path / SHARD_INDEX, open_safetensors) as source:
        assert isinstance(source, ParameterSource)
        assert source.path == tmp_path / SHARD_INDEX
        assert source.format == "safetensors"
        assert source.names() == tuple(weight_map)
        name = "rwkv.blocks.1.attention.time_mix_key"
        assert source.info(name).shape == (1, 1, 32)
        view = source.view(name)
        with pytest.raises(KeyError):
            source.info("x")
    np.testing.assert_array_equal(view, huggingface_parameters()[name])


BAD_FILES = [
    "",
    ".",
    "..",
    "../model.safetensors",
    "/etc/passwd",
    "sub/model.safetensors",
    "..\\model.safetensors",
    "a\0b",
    "a\nb",
    "x" * 256,
    "\ud800",
    None,
    1,
    ["a"],
]


@pytest.mark.parametrize("file", BAD_FILES, ids=lambda file: repr(file)[:20])
def test_files_outside_of_the_folder(tmp_path: Path, file: object) -> None:
    write_index(tmp_path, {"a": file})
    with pytest.raises(FormatError, match=r"expected names of files in the same folder, got "):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


@pytest.mark.parametrize("weight_map", [{}, [], None, "x", 1])
def test_an_index_without_a_map(tmp_path: Path, weight_map: object) -> None:
    write_index(tmp_path, weight_map)
    with pytest.raises(FormatError, match="expected a weight_map of tensors and their files, got none"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


def test_an_index_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / SHARD_INDEX).write_text("{}")
    with pytest.raises(FormatError, match="expected a weight_map"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)
    (tmp_path / SHARD_INDEX).write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(FormatError, match=r"index: expected a plain JSON object, got the key 'a' twice"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


def test_more_files_or_tensors_than_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path, {f"t{i}": f"f{i}" for i in range(257)})
    with pytest.raises(FormatError, match="expected at most 256 files, got 257"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)
    monkeypatch.setattr(shards, "MAX_TENSORS", 256)
    with pytest.raises(FormatError, match="expected at most 256 tensors, got 257"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


def test_a_shard_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path, huggingface_parameters())
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(StorageError, match=r"model-00002-of-00003\.safetensors: cannot open it"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


def test_a_tensor_that_is_not_where_the_index_says(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, huggingface_parameters())
    name = next(name for name, file in weight_map.items() if file == "model-00003-of-00003.safetensors")
    weight_map[name] = "model-00001-of-00003.safetensors"
    write_index(tmp_path, weight_map)
    message = (
        r"index.json: expected model-00001-of-00003.safetensors to hold the \d+ tensors that the index lists for it, "
        rf"got 1 missing \({name}\) and 0 others \(\)"
    )
    with pytest.raises(FormatError, match=message):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


def test_a_tensor_that_two_shards_hold(tmp_path: Path) -> None:
    write_shards(tmp_path, huggingface_parameters())
    last = tmp_path / "model-00003-of-00003.safetensors"
    with open_safetensors(last) as source:
        held = {name: huggingface_parameters()[name] for name in source.names()}
    last.write_bytes(safetensors_bytes(held | {"rwkv.embeddings.weight": np.zeros(1, "<f4")}))
    with pytest.raises(FormatError, match=r"got 0 missing \(\) and 1 others \(rwkv.embeddings.weight\)"):
        open_shards(tmp_path / SHARD_INDEX, open_safetensors)


@sampled
def test_every_bit_of_the_index(tmp_path: Path, step: int) -> None:
    arrays = {"a": np.arange(2, dtype="<f4"), "b": np.arange(3, dtype="<f4")}
    write_shards(tmp_path, arrays, 2)
    whole = (tmp_path / SHARD_INDEX).read_bytes()
    for position, mask in flips(len(whole), step):
        (tmp_path / SHARD_INDEX).write_bytes(with_flip(whole, position, mask))
        try:
            source = open_shards(tmp_path / SHARD_INDEX, open_safetensors)
        except RWKVError:
            continue
        with source:
            assert source.names() == ("a", "b")
            np.testing.assert_array_equal(source.view("b"), arrays["b"])


def test_the_index_cut_at_every_length(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": np.arange(2, dtype="<f4")}, 1)
    whole = (tmp_path / SHARD_INDEX).read_bytes()
    for length in range(len(whole)):
        (tmp_path / SHARD_INDEX).write_bytes(whole[:length])
        with pytest.raises(FormatError, match="is empty" if length == 0 else "expected a plain JSON object"):
            open_shards(tmp_path / SHARD_INDEX, open_safetensors)
