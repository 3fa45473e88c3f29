"""Folders in the layout of flash-linear-attention, loaded by it: every tensor has its place and its shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from rwkv_cy.toolkit.export import export

models = pytest.importorskip("fla.models", reason="loads exports: pip install flash-linear-attention")
pytestmark = pytest.mark.oracle

CLASSES = {"rwkv6": "RWKV6ForCausalLM", "rwkv7": "RWKV7ForCausalLM"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CLASSES)
def test_every_tensor_is_loaded(tmp_path: Path, name: str) -> None:
    config = replace(CONFIGS[name], d_att=CONFIGS[name].d_model)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config, optional=False))
    export(source, tmp_path / "t", layout="fla", tokenizer="none")
    _, report = getattr(models, CLASSES[name]).from_pretrained(tmp_path / "t", output_loading_info=True)
    assert not any(report.values()), report
