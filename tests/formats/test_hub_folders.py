"""Folders as they are published on the Hugging Face hub: settings, layout and vocabulary of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.foreign import (
    Array,
    rwkv4_parameters,
    rwkv5_parameters,
    rwkv6_parameters,
    rwkv7_parameters,
    safetensors_bytes,
    write_shards,
)
from formats.layouts.test_tables import applied, opened
from formats.make_pth import zip_checkpoint
from formats.sources import read_all
from rwkv_cy.formats.layouts.fla import FLA, FLA_6, LINEAR_ATTENTION
from rwkv_cy.formats.layouts.huggingface import HUGGINGFACE, HUGGINGFACE_4, HUGGINGFACE_7
from rwkv_cy.formats.layouts.layout import Layout
from rwkv_cy.model.language_model import load
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE
from text.samples import byte_level_json, line, world_tokens
from text.tokenizers.test_byte_level import greedy_json

Parameters = dict[str, Array]


def published_text() -> bytes:
    return "".join(line(i, token) + "\n" for i, token in enumerate(world_tokens()) if token).encode()


def literals() -> bytes:
    """A vocab.txt has no gaps: unused ids, which the small vocabulary has, are tokens of no text."""
    tokens = [token or b"\xff\xff%d" % i for i, token in enumerate(world_tokens()[:65_530])]
    return "\n".join(["b'<s>'", *map(repr, tokens[1:])]).encode()


def one_file(folder: Path, tensors: Parameters) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))


def shards(folder: Path, tensors: Parameters) -> None:
    write_shards(folder, tensors)


def pickle(folder: Path, tensors: Parameters) -> None:
    stored = {name: ("f32", array) for name, array in tensors.items()}
    (folder / "pytorch_model.bin").write_bytes(zip_checkpoint(stored).to_bytes())


@dataclass(frozen=True)
class Folder:
    """What is published: the parameters and where they are, settings, and a vocabulary with its name."""

    parameters: Callable[[], Parameters]
    layout: Layout
    write: Callable[[Path, Parameters], None]
    settings: dict[str, Any]
    vocabulary: Callable[[], bytes]
    name: str


def with_rows(parameters: Parameters, rows: int) -> Parameters:
    """Return the parameters of a model of so many tokens."""
    rng, shape = np.random.default_rng(9), (rows, parameters["emb.weight"].shape[1])
    return parameters | {n: rng.standard_normal(shape).astype(np.float32) for n in ("emb.weight", "head.weight")}


FOLDERS = {
    "RWKV/rwkv-4-169m-pile": Folder(
        lambda: with_rows(rwkv4_parameters(), 267),
        HUGGINGFACE_4,
        pickle,
        {"model_type": "rwkv", "architectures": ["RwkvForCausalLM"], "attention_hidden_size": 32, "rescale_every": 6},
        byte_level_json,
        "tokenizer.json",
    ),
    "RWKV/rwkv-5-world-1b5": Folder(
        lambda: with_rows(rwkv5_parameters("5.2"), WORLD_SIZE),
        HUGGINGFACE,
        pickle,
        {"model_type": "rwkv5", "architectures": ["Rwkv5ForCausalLM"], "head_size": 16, "intermediate_size": None},
        literals,
        "vocab.txt",
    ),
    "RWKV/v6-Finch-1B6-HF": Folder(
        lambda: with_rows(rwkv6_parameters(), WORLD_SIZE),
        HUGGINGFACE,
        one_file,
        {"model_type": "rwkv6", "architectures": ["Rwkv6ForCausalLM"], "head_size": 16, "head_size_divisor": 8},
        published_text,
        "rwkv_vocab_v20230424.txt",
    ),
    "RWKV/RWKV7-1.5B-20260805": Folder(
        lambda: with_rows(rwkv7_parameters(heads=(1, 64)), WORLD_SIZE),
        HUGGINGFACE_7,
        shards,
        {"model_type": "rwkv7", "architectures": ["Rwkv7ForCausalLM"], "head_dim": 64, "norm_eps": 1e-5},
        lambda: greedy_json(world_tokens()),
        "tokenizer.json",
    ),
    "rwkv-rs/rwkv7-g1-st": Folder(
        lambda: with_rows(rwkv7_parameters(), WORLD_SIZE),
        LINEAR_ATTENTION,
        shards,
        {"model_type": "rwkv", "architecture_version": "rwkv7", "head_size": 16},
        published_text,
        "rwkv_vocab_v20230424.txt",
    ),
    "fla-hub/rwkv7-0.1B-g1": Folder(
        lambda: with_rows(rwkv7_parameters(heads=(1, 64)), WORLD_SIZE),
        FLA,
        one_file,
        {"model_type": "rwkv7", "architectures": ["RWKV7ForCausalLM"], "head_dim": 64, "norm_eps": 1e-5},
        published_text,
        "rwkv_vocab_v20230424.txt",
    ),
    "fla-hub/rwkv6-1.6B-finch": Folder(
        lambda: with_rows(rwkv6_parameters(), WORLD_SIZE),
        FLA_6,
        one_file,
        {"model_type": "rwkv6", "num_heads": 2, "norm_eps": 1e-5, "hidden_ratio": 3.5},
        published_text,
        "rwkv_vocab_v20230424.txt",
    ),
}


@pytest.mark.parametrize("repository", FOLDERS)
def test_a_published_folder(tmp_path: Path, repository: str) -> None:
    published = FOLDERS[repository]
    parameters = {n: a for n, a in published.parameters().items() if n not in published.layout.omitted}
    original = tmp_path / "original.safetensors"
    folder = tmp_path / "folder"
    folder.mkdir()
    with applied(opened(original, parameters), published.layout) as source:
        published.write(folder, {name: array for name, (_, array) in read_all(source).items()})
    rows, width = parameters["emb.weight"].shape
    settings = {"vocab_size": rows, "hidden_size": width, "num_hidden_layers": 2, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(settings | published.settings))
    (folder / published.name).write_bytes(published.vocabulary())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Any"}')
    model = load(folder)
    assert model.tokenizer is not None
    text = "In the 人\n\nhe"
    ids = model.tokenizer.encode(text)
    assert len(ids) < len(text.encode())
    assert model.tokenizer.decode(ids) == text
    expected = load(original)
    assert model.config == expected.config
    assert model.forward(ids, all_logits=True)[0].tobytes() == expected.forward(ids, all_logits=True)[0].tobytes()
