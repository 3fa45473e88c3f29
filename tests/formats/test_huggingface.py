"""Hugging Face folders: one file or shards, with settings and tokenizer beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import (
    huggingface_parameters,
    open_files,
    rwkv4_parameters,
    rwkv7_parameters,
    safetensors_bytes,
    write_index,
    write_shards,
)
from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.formats.huggingface import open_folder
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource

CONFIG = {
    "model_type": "rwkv",
    "layer_norm_epsilon": 1e-05,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "architectures": ["RwkvForCausalLM"],
    "attention_hidden_size": None,
}


def assert_is_the_model(source: ParameterSource) -> None:
    parameters = rwkv4_parameters()
    assert set(source.names()) == set(parameters)
    for name, array in parameters.items():
        buffer = np.empty(array.size, "<f4")
        source.read_into(name, buffer)
        np.testing.assert_array_equal(buffer.reshape(source.info(name).shape), array)
        np.testing.assert_array_equal(source.view(name), array)


def test_one_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters(), {"format": "pt"}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text("{}")
    with open_folder(tmp_path, open_safetensors) as source:
        assert isinstance(source, ParameterSource)
        assert (source.path, source.format) == (tmp_path, "huggingface")
        assert source.metadata == {
            "format": "pt",
            "model_type": "rwkv",
            "layer_norm_epsilon": "1e-05",
            "rescale_every": "6",
            "tie_word_embeddings": "false",
            "tokenizer_path": str(tmp_path / "tokenizer.json"),
        }
        assert_is_the_model(source)
        source.check()


def test_no_settings_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(rwkv4_parameters()))
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata == {}
        assert_is_the_model(source)


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, huggingface_parameters())
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.format == "huggingface"
        assert source.metadata == {"format": "pt", "only0": "x", "only1": "x", "only2": "x"}
        assert_is_the_model(source)
        source.check()
        os.truncate(tmp_path / "model-00002-of-00003.safetensors", 100)
        with pytest.raises(FormatError, match=r"model-00002-of-00003.safetensors: .*truncated while it was open"):
            source.check()


def test_links_within_a_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "abc").write_bytes(safetensors_bytes(huggingface_parameters()))
    (snapshot / "model.safetensors").symlink_to("../blobs/abc")
    with open_folder(snapshot, open_safetensors) as source:
        assert_is_the_model(source)


def test_only_the_reader_names_the_tokenizer(tmp_path: Path) -> None:
    passwd = {"tokenizer_path": "/etc/passwd"}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters(), passwd))
    (tmp_path / "config.json").write_text(json.dumps(passwd))
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata == {}
    (tmp_path / "tokenizer.json").touch()
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata == {"tokenizer_path": str(tmp_path / "tokenizer.json")}


def test_rwkv7_of_transformers(tmp_path: Path) -> None:
    parameters = rwkv7_parameters()
    theirs = {name if name == "head.weight" else f"rwkv7.{name}": array for name, array in parameters.items()}
    write_shards(tmp_path, theirs)
    config = {"model_type": "rwkv7", "norm_eps": 2e-05, "head_dim": 16, "norm_bias": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata["layer_norm_epsilon"] == "2e-05"
        assert set(source.names()) == set(parameters)
        for name, array in parameters.items():
            np.testing.assert_array_equal(source.view(name), array)


def test_an_epsilon_under_its_own_name_counts(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(rwkv4_parameters()))
    (tmp_path / "config.json").write_text(json.dumps({"norm_eps": 1, "layer_norm_epsilon": 1e-05}))
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata["layer_norm_epsilon"] == "1e-05"


def test_a_tied_head(tmp_path: Path) -> None:
    arrays = huggingface_parameters()
    del arrays["head.weight"]
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(arrays))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    with open_folder(tmp_path, open_safetensors) as source:
        np.testing.assert_array_equal(source.view("head.weight"), arrays["rwkv.embeddings.weight"])


def test_the_index_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    write_shards(tmp_path, huggingface_parameters())
    with open_folder(tmp_path, open_safetensors) as source:
        assert_is_the_model(source)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_the_opener_names_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(safetensors_bytes(huggingface_parameters()))
    asked = []

    def opener(path: Path) -> ParameterSource:
        asked.append(path)
        return open_safetensors(path)

    with open_folder(tmp_path, opener) as source:
        assert_is_the_model(source)
    assert asked == [tmp_path / name]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no model in this folder; looked for .*model.safetensors, .* found nothing"):
        open_folder(tmp_path, open_safetensors)
    for i in range(7):
        (tmp_path / f"file{i}").touch()
    with pytest.raises(FormatError, match=r"found 'file0', 'file1', 'file2', 'file3', 'file4' and others; name"):
        open_folder(tmp_path, open_safetensors)


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name in ("missing", "loop", "file"):
        with pytest.raises(StorageError, match=f"{name}: cannot list it"):
            open_folder(tmp_path / name, open_safetensors)


def test_weights_that_are_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(StorageError, match="expected a regular file, got a directory"):
        open_folder(tmp_path, open_safetensors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "config.json: expected a model, got an empty file"),
        ("[]", "config.json: config: expected a plain JSON object, got a JSON list"),
        ("{", "config.json: config: expected a plain JSON object"),
        ("[" * 100_000, "config.json: config: expected a plain JSON object, got more than 32 levels"),
        ('{"a": 1, "a": 2}', "config.json: config: expected a plain JSON object, got the key 'a' twice"),
        ('{"a": NaN}', "config.json: config: expected a plain JSON object, got NaN"),
    ],
)
def test_damaged_settings(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters()))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FormatError, match=message):
        open_folder(tmp_path, open_safetensors)


def test_settings_of_absurd_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters()))
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(FormatError, match=r"config.json: expected at most 67108864 bytes, got 67108865"):
        open_folder(tmp_path, open_safetensors)


def test_refused_weights_are_closed(tmp_path: Path) -> None:
    twice = huggingface_parameters() | {"rwkv.emb.weight": np.zeros(2, "<f4")}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(twice))
    before = open_files()
    with pytest.raises(FormatError, match=r"emb.weight: expected one tensor of that name"):
        open_folder(tmp_path, open_safetensors)
    weight_map = write_shards(tmp_path, huggingface_parameters())
    weight_map["more"] = "model-00003-of-00003.safetensors"
    write_index(tmp_path, weight_map)
    with pytest.raises(FormatError, match="1 missing"):
        open_folder(tmp_path, open_safetensors)
    assert open_files() == before
