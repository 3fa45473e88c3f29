"""Folders in the layout of flash-linear-attention: it loads and runs ours, and we run its own, with the same logits.

These tests need ``pip install flash-linear-attention`` (0.6 was used). Its kernels are written for GPUs; here they run
in Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from formats.foreign import Array
from formats.writers import fla_logits
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import load
from rwkv_cy.toolkit.export import export

models = pytest.importorskip("fla.models", reason="runs exports: pip install flash-linear-attention")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

CLASSES = {"rwkv6": "RWKV6", "rwkv7": "RWKV7"}
TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 90, fla_logits.PIECE + 10)]


def run(folder: Path) -> Array:
    """Return the package's logits after each token, (tokens, vocabulary)."""
    tokens, result = folder.parent / "tokens.npy", folder.parent / "logits.npy"
    np.save(tokens, np.array(TOKENS))
    command = [sys.executable, fla_logits.__file__, folder, tokens, result]
    done = subprocess.run(command, env=os.environ | fla_logits.ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: Array = np.load(result)
    return found


def ours(path: Path) -> Array:
    logits, _ = load(path).forward(TOKENS, all_logits=True)
    return logits


def difference(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def config_of(name: str) -> Config:
    return replace(CONFIGS[name], d_att=CONFIGS[name].d_model, num_layers=2)


def exported(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """Return a checkpoint and the folder that is made of it."""
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config_of(name), optional=False))
    export(source, tmp_path / "t", layout="fla", tokenizer="none")
    return source, tmp_path / "t"


def with_its_epsilon(folder: Path) -> None:
    """Add to config.json what the package adds to the variance of RWKV-6's heads."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"group_norm_epsilon": 1e-5}))


@pytest.mark.parametrize("name", CLASSES)
def test_every_tensor_is_loaded(tmp_path: Path, name: str) -> None:
    _, folder = exported(tmp_path, name)
    loader = getattr(models, f"{CLASSES[name]}ForCausalLM")
    _, report = loader.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report


def test_it_computes_the_logits_of_rwkv7(tmp_path: Path) -> None:
    source, folder = exported(tmp_path, "rwkv7")
    found, expected = run(folder), ours(source)
    assert difference(found, expected) <= 1e-5
    # The tolerance can be exceeded: by the logits of the token before.
    assert difference(found[1:], expected[:-1]) > 1e-2


def test_it_computes_the_logits_of_rwkv6_with_its_own_epsilon(tmp_path: Path) -> None:
    """It adds 1e-5 where the authors add 64e-5, which a warning of the export says."""
    source, folder = exported(tmp_path, "rwkv6")
    found, expected = run(folder), ours(source)
    assert 2e-5 < difference(found, expected) <= 5e-3
    with_its_epsilon(folder)
    assert difference(found, ours(folder)) <= 1e-5


@pytest.mark.parametrize("name", CLASSES)
def test_we_compute_the_logits_of_its_own_folder(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    config = config_of(name)
    sizes: dict[str, Any] = {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "vocab_size": config.vocab_size,
        "num_heads": config.d_model // config.head_size,
        "fuse_cross_entropy": False,
    }
    if name == "rwkv6":
        sizes["expand_k"] = 1.0
    else:
        sizes["head_dim"] = config.head_size
    torch.manual_seed(8)
    theirs = getattr(models, f"{CLASSES[name]}ForCausalLM")(getattr(models, f"{CLASSES[name]}Config")(**sizes))
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if "norm" in key and key.endswith("weight") else 0.0, 0.2)
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    if name == "rwkv6":
        with_its_epsilon(folder)
    assert difference(run(folder), ours(folder)) <= 2e-5
