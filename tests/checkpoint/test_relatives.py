"""Files of what the package does not run: loading one names it, whatever its layout, and inspect shows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from architectures.test_relatives import CASES, SUPPORTED, Shapes
from checkpoints import write_safetensors
from formats.foreign import rwkv7_parameters
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.formats.layouts.fla import FLA
from rwkv_cy.model.language_model import load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect

REFUSED = [case for case in CASES if case[0] not in SUPPORTED]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("label", "reason", "shapes"), REFUSED, ids=[label for label, *_ in REFUSED])
def test_a_file_is_refused_by_name(tmp_path: Path, label: str, reason: str, shapes: Shapes, prefix: str) -> None:
    tensors = {prefix + name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    path = write_safetensors(tmp_path / "model.safetensors", tensors)
    for refuse in (load, lambda path: convert(path, tmp_path / "out.h5")):
        with pytest.raises(UnsupportedError, match=rf"model\.safetensors: .*{re.escape(label)}.*{re.escape(reason)}"):
            refuse(path)
    report = inspect(path)
    assert report.architecture == label
    assert report.config is None
    assert label in report.problems[0]
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_layers_among_those_of_another_project(tmp_path: Path, layer: int) -> None:
    """flash-linear-attention can make some layers softmax attention."""
    shapes = {name: array.shape for name, array in rwkv7_parameters(layers=3).items()}
    tensors = {name: np.zeros(recipe.shape, np.float32) for name, recipe in FLA.apply(shapes).items()}
    prefix = f"model.layers.{layer}.attn."
    tensors = {name: array for name, array in tensors.items() if not name.startswith(prefix)}
    tensors |= {f"{prefix}{name}_proj.weight": np.zeros((32, 32), np.float32) for name in "qkvo"}
    path = write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UnsupportedError, match="found RWKV with attention layers, whose attention keeps every past"):
        load(path)


def test_a_whole_model_with_unmerged_adapters_is_not_called_an_adapter(tmp_path: Path) -> None:
    parameters = rwkv7_parameters()
    adapters = {
        f"blocks.{i}.att.{name}.lora_{part}": np.ones((4, 32) if part == "A" else (32, 4), np.float32)
        for i in range(2)
        for name in ("key", "value", "receptance")
        for part in "AB"
    }
    path = write_safetensors(tmp_path / "model.safetensors", parameters | adapters)
    with pytest.raises(UnsupportedError, match="found a model with unmerged LoRA adapters, which have to be merged"):
        load(path)
    path = write_safetensors(tmp_path / "adapter.safetensors", adapters)
    with pytest.raises(UnsupportedError, match="found a LoRA adapter, which has to be merged into its model first"):
        load(path)
