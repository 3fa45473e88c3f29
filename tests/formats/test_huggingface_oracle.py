"""Folders written by transformers: parameters under their original names, its logits, its tokenizer's ids."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.foreign import huggingface_name
from rwkv_cy.dtypes import STORAGE_TYPES, bf16_to_f32
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.model.language_model import load
from text.samples import byte_level_json

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs torch==2.13.0")


@pytest.fixture(scope="module")
def model(torch: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers with RwkvForCausalLM")
    config = transformers.RwkvConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=3, context_length=16, rescale_every=2, attention_hidden_size=8
    )
    torch.manual_seed(5)
    model = transformers.RwkvForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def check(folder: Path, model: Any, torch: Any) -> None:
    """Hold every parameter of the folder against the model's."""
    state = model.state_dict()
    with open_checkpoint(folder) as source:
        assert source.format == "huggingface"
        assert source.metadata["rescale_every"] == "2"
        assert source.metadata["layer_norm_epsilon"] == "1e-05"
        assert {huggingface_name(name) for name in source.names()} == set(state)
        for name in source.names():
            info = source.info(name)
            truth = state[huggingface_name(name)]
            assert info.shape == tuple(truth.shape)
            buffer = np.empty(info.size, STORAGE_TYPES[info.dtype].array_dtype)
            source.read_into(name, buffer)
            numbers = bf16_to_f32(buffer) if info.dtype == "bf16" else buffer
            np.testing.assert_array_equal(numbers.reshape(info.shape), truth.to(torch.float32).numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_file(tmp_path: Path, model: Any, torch: Any, dtype: str) -> None:
    cast = deepcopy(model).to(getattr(torch, dtype))
    cast.save_pretrained(tmp_path)
    check(tmp_path, cast, torch)


def test_shards(tmp_path: Path, model: Any, torch: Any) -> None:
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    check(tmp_path, model, torch)


@pytest.mark.parametrize("form", ["whole", "shards", "pickled", "tied"])
def test_logits_and_tokenizer(tmp_path: Path, torch: Any, form: str) -> None:
    """A folder as save_pretrained of model and tokenizer writes it."""
    transformers = pytest.importorskip("transformers", reason="needs transformers with RwkvForCausalLM")
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer.from_str(byte_level_json().decode())
    backend.no_truncation()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    torch.manual_seed(6)
    config = transformers.RwkvConfig(
        vocab_size=270, hidden_size=32, num_hidden_layers=4, rescale_every=2, tie_word_embeddings=form == "tied"
    )
    model = transformers.RwkvForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln" in name and name.endswith("weight") else 0.0, 0.2)
    tokenizer.save_pretrained(tmp_path)
    if form == "pickled":
        config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        model.save_pretrained(tmp_path, max_shard_size="40KB" if form == "shards" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() is (form == "shards")
    text = "In the beginning \u4eba\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    # The residual stream is halved there, so that the epsilons of later layers weigh more.
    ours = load(tmp_path, rescale_layer=2)
    assert ours.tokenizer is not None
    assert ours.tokenizer.encode(text) == ids
    logits, _ = ours.forward(ids, all_logits=True)
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


def test_pickled_weights(tmp_path: Path, model: Any, torch: Any) -> None:
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check(tmp_path, model, torch)


@pytest.mark.parametrize("rescale", [0, 2])
def test_hidden_states(tmp_path: Path, torch: Any, rescale: int) -> None:
    """The last_hidden_state of RwkvModel, and vectors pooled from it."""
    transformers = pytest.importorskip("transformers", reason="needs transformers with RwkvForCausalLM")
    torch.manual_seed(7)
    config = transformers.RwkvConfig(vocab_size=90, hidden_size=32, num_hidden_layers=4, rescale_every=rescale)
    model = transformers.RwkvForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln" in name and name.endswith("weight") else 0.0, 0.2)
    model.save_pretrained(tmp_path)
    ids = list(np.random.default_rng(7).integers(0, 90, 40))
    with torch.no_grad():
        expected = model.rwkv.eval()(torch.tensor([ids]), use_cache=False).last_hidden_state[0].numpy()
    ours = load(tmp_path, rescale_layer=rescale)
    hidden, _ = ours.hidden(ids)
    assert hidden.shape == expected.shape
    for found, truth in (
        (hidden, expected),
        (ours.embed(ids), expected.mean(axis=0)),
        (ours.embed(ids, pooling="last"), expected[-1]),
    ):
        assert np.abs(found - truth).max() <= 2e-5 * np.abs(expected).max()
