"""Tuned states and adapters as the authors' tools read them: by torch, and in their own package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training import TrainingOptions, tune
from rwkv_package import PackageModel, assert_close

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")

OPTIONS = TrainingOptions(steps=5, batch_size=2, context=16, learning_rate=0.5, final_learning_rate=0.1)
VERSIONS = ["rwkv5.2", "rwkv6", "rwkv7"]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("the quick brown fox jumps over the lazy dog; " * 20)
    return path


def model_of(architecture: str) -> LanguageModel:
    rng = np.random.default_rng(5)
    config = Config(64, 2, vocab_size=256, architecture=architecture, head_size=32)
    parameters = {
        name: (value.array + 0.05 * rng.standard_normal(value.array.shape)).astype(np.float32)
        for name, value in LanguageModel.new(config, 3).parameters.items()
    }
    return LanguageModel(config, parameters, ByteTokenizer())


@pytest.mark.parametrize("architecture", VERSIONS)
def test_their_package_begins_with_a_tuned_state(architecture: str, book: Path, tmp_path: Path) -> None:
    model = model_of(architecture)
    tune(model, book, tmp_path / "state.pth", OPTIONS, method="state")
    states = {name: tensor.numpy() for name, tensor in torch.load(tmp_path / "state.pth", weights_only=True).items()}
    assert [(name, array.shape, array.dtype) for name, array in states.items()] == [
        (f"blocks.{i}.att.time_state", (2, 32, 32), np.float32) for i in range(2)
    ]
    tokens = [10, 20, 30, 40]
    parameters = {name: value.array for name, value in model.parameters.items()}
    expected, _ = PackageModel(tmp_path, {**parameters, **states}).forward(tokens)
    logits, _ = model.forward(tokens, model.load_state(tmp_path / "state.pth"), all_logits=True)
    assert_close(logits, expected)
    without, _ = model.forward(tokens, all_logits=True)
    assert np.abs(without - logits).max() > 1e-3 * np.abs(logits).max()


def test_an_adapter_has_the_names_and_shapes_of_theirs(book: Path, tmp_path: Path) -> None:
    tune(model_of("rwkv7"), book, tmp_path / "lora.pth", OPTIONS, method="lora", rank=4)
    shapes = {
        name: tuple(tensor.shape) for name, tensor in torch.load(tmp_path / "lora.pth", weights_only=True).items()
    }
    assert shapes["blocks.1.att.key.lora_A"] == (4, 64)
    assert shapes["blocks.1.att.key.lora_B"] == (64, 4)
    assert shapes["blocks.0.ffn.key.lora_B"] == (256, 4)
    modules = ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
    assert set(shapes) == {f"blocks.{i}.{module}.lora_{x}" for i in range(2) for module in modules for x in "AB"}
