"""Hugging Face folders: one file or shards, with settings and tokenizer beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import (
    Array,
    huggingface_parameters,
    open_files,
    rwkv4_parameters,
    rwkv7_parameters,
    safetensors_bytes,
    write_index,
    write_shards,
)
from formats.make_pth import zip_checkpoint
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import FormatError, SpecError, StorageError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.huggingface import open_folder
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.model.language_model import load
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
        view = source.view(name)
        assert view is not None or source.files[0].path.suffix == ".bin"  # whose tensors may be misaligned
        if view is not None:
            np.testing.assert_array_equal(view, array)


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


def test_a_folder_does_not_name_its_tokenizer(tmp_path: Path) -> None:
    passwd = {"tokenizer_path": "/etc/passwd"}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters(), passwd))
    (tmp_path / "config.json").write_text(json.dumps(passwd))
    with open_folder(tmp_path, open_safetensors) as source:
        assert source.metadata == {}


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


def test_a_whole_file_goes_before_an_index(tmp_path: Path) -> None:
    """As in transformers: the index was left by an earlier version of the model."""
    write_index(tmp_path, {"rwkv.blocks.0.ln1.weight": "model-00001-of-00007.safetensors"})
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(huggingface_parameters()))
    with open_folder(tmp_path, open_safetensors) as source:
        assert_is_the_model(source)


@pytest.mark.parametrize("tied", [True, False])
def test_an_index_that_lists_a_head_that_was_dropped(tmp_path: Path, tied: bool) -> None:
    arrays = huggingface_parameters()
    head = arrays.pop("head.weight")
    weight_map = write_shards(tmp_path, arrays)
    write_index(tmp_path, weight_map | {"head.weight": "model-00002-of-00003.safetensors"})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": tied}))
    with open_folder(tmp_path, open_safetensors) as source:
        assert ("head.weight" in source.names()) is tied
        if tied:
            assert source.info("head.weight").shape == head.shape
            np.testing.assert_array_equal(source.view("head.weight"), arrays["rwkv.embeddings.weight"])
        else:
            with pytest.raises(SpecError, match="missing head.weight"):
                _ = Checkpoint(source).config


def test_an_integer_buffer(tmp_path: Path) -> None:
    """Left out with a warning, in one file and in shards."""
    arrays = huggingface_parameters() | {"rwkv.position_ids": np.arange(3, dtype="<i8")}
    for write in (lambda: write_shards(tmp_path, arrays), lambda: write_model(tmp_path, arrays)):
        write()
        with Checkpoint(open_checkpoint(tmp_path)) as checkpoint:
            assert checkpoint.config.num_layers == 2
            assert checkpoint.warnings == (
                f"{tmp_path}: left out what no model needs: rwkv.position_ids (I64, shape (3,))",
            )
            assert_is_the_model(checkpoint.source)


def write_model(folder: Path, arrays: dict[str, Array]) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(arrays))


def test_pickled_shards(tmp_path: Path) -> None:
    arrays = huggingface_parameters()
    weight_map = {}
    for i in range(3):
        file = f"pytorch_model-{i + 1:05}-of-00003.bin"
        held = {name: arrays[name] for name in list(arrays)[i::3]}
        (tmp_path / file).write_bytes(zip_checkpoint({n: ("f32", a) for n, a in held.items()}).to_bytes())
        weight_map |= dict.fromkeys(held, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with open_checkpoint(tmp_path) as source:
        assert_is_the_model(source)
        assert len(source.files) == 3


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_settings_that_are_not_numbers(tmp_path: Path, number: str) -> None:
    """Python writes them, and transformers reads them; only an epsilon must be a number."""
    write_model(tmp_path, huggingface_parameters())
    (tmp_path / "config.json").write_text(f'{{"initializer_range": {number}}}')
    with Checkpoint(open_checkpoint(tmp_path)) as checkpoint:
        assert checkpoint.config.layer_norm_eps == 1e-5
    (tmp_path / "config.json").write_text(f'{{"layer_norm_epsilon": {number}}}')
    with (
        Checkpoint(open_checkpoint(tmp_path)) as checkpoint,
        pytest.raises(FormatError, match=r"Config.layer_norm_eps: expected a positive number, got -?(nan|inf)"),
    ):
        _ = checkpoint.config


@pytest.mark.parametrize(
    ("key", "value", "actual"),
    [
        ("vocab_size", 7, 6),
        ("hidden_size", 64, 32),
        ("num_hidden_layers", 3, 2),
        ("attention_hidden_size", 64, 32),
        ("intermediate_size", 128, 64),
    ],
)
def test_settings_of_another_model(tmp_path: Path, key: str, value: int, actual: int) -> None:
    write_model(tmp_path, huggingface_parameters())
    for stated in (None, actual):
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: stated, "head_size": 64}))
        with Checkpoint(open_checkpoint(tmp_path)) as checkpoint:
            assert checkpoint.config.num_layers == 2
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    message = f"config.json: {key}: expected {actual}, as the tensors have, got {value}; it is another model's"
    with Checkpoint(open_checkpoint(tmp_path)) as checkpoint, pytest.raises(FormatError, match=message):
        _ = checkpoint.config


@pytest.mark.parametrize("key", ["head_size", "head_dim"])
def test_heads_of_another_model(tmp_path: Path, key: str) -> None:
    write_model(tmp_path, rwkv7_parameters())
    (tmp_path / "config.json").write_text(json.dumps({key: 32}))
    message = f"config.json: {key}: expected 16, as the tensors have, got 32"
    with Checkpoint(open_checkpoint(tmp_path)) as checkpoint, pytest.raises(FormatError, match=message):
        _ = checkpoint.config


def test_a_divisor_of_the_heads_is_an_epsilon(tmp_path: Path) -> None:
    """x / 8 with the epsilon 1e-5 is x with 64 times as much."""
    write_model(tmp_path, huggingface_parameters())
    (tmp_path / "config.json").write_text(json.dumps({"head_size_divisor": 4}))
    with open_checkpoint(tmp_path) as source:
        assert float(source.metadata["group_norm_epsilon"]) == pytest.approx(16e-5)


def test_an_embedding_that_has_been_normalized(tmp_path: Path) -> None:
    """As transformers-rwkv stores it: without ln0, and a setting says so."""
    arrays = rwkv7_parameters(vocab=256)
    whole = tmp_path / "whole"
    whole.mkdir()
    write_model(whole, arrays)
    expected, _ = load(whole).forward([1, 2, 3], all_logits=True)
    embedding = arrays["emb.weight"].astype("<f8")
    centred = embedding - embedding.mean(1, keepdims=True)
    scale, shift = arrays.pop("blocks.0.ln0.weight"), arrays.pop("blocks.0.ln0.bias")
    normalized = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * scale + shift
    write_model(tmp_path, arrays | {"emb.weight": normalized.astype("<f4")})
    (tmp_path / "config.json").write_text(json.dumps({"embedding_layer_norm_fused": True}))
    logits, _ = load(tmp_path).forward([1, 2, 3], all_logits=True)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    (tmp_path / "config.json").write_text(json.dumps({"embedding_layer_norm_fused": False}))
    with pytest.raises(SpecError, match=r"missing blocks.0.ln0.weight"):
        load(tmp_path)


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
    with pytest.raises(StorageError, match="is a directory, not a regular file"):
        open_folder(tmp_path, open_safetensors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "config.json is empty; download"),
        ("[]", "config.json: config: expected a plain JSON object, got a JSON list"),
        ("{", "config.json: config: expected a plain JSON object"),
        ("[" * 100_000, "config.json: config: expected a plain JSON object, got more than 32 levels"),
        ('{"a": 1, "a": 2}', "config.json: config: expected a plain JSON object, got the key 'a' twice"),
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
    with pytest.raises(FormatError, match=r"emb.weight: expected one tensor of that name"):
        open_folder(tmp_path, open_safetensors)
    (tmp_path / "model.safetensors").unlink()
    weight_map = write_shards(tmp_path, huggingface_parameters())
    weight_map["more"] = "model-00003-of-00003.safetensors"
    write_index(tmp_path, weight_map)
    with pytest.raises(FormatError, match="1 missing"):
        open_folder(tmp_path, open_safetensors)
    assert not open_files(tmp_path)
