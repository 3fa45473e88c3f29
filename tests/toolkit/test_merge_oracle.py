"""Merged models against torch: files that torch writes and reads, formulas on its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.merge import merge
from toolkit.adapters import CASES

torch = pytest.importorskip("torch", reason="merges with torch: pip install torch==2.13.0")
pytestmark = pytest.mark.oracle

Tensors = Mapping[str, Any]


def low_rank(w: Any, tensors: Tensors, module: str, alpha: float | None) -> Any:
    """W + (alpha / r) B A."""
    a, b = tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"]
    return w + torch.matmul(b, a) * (1 if alpha is None else alpha / a.shape[0])


def bone(w: Any, d: Any) -> Any:
    """W + the transpose of D, repeated along the inputs and cut."""
    return w + d.T.repeat(1, -(-w.shape[1] // d.shape[0]))[:, : w.shape[1]]


def bat(w: Any, d: Any) -> Any:
    """W + W D + D for blocks of r rows and r columns, D that of the column of blocks."""
    r = d.shape[1]
    blocks = w.unfold(0, r, r).unfold(1, r, r)  # (row block, column block, row, column)
    return w + (blocks @ d + d).permute(0, 2, 1, 3).reshape(w.shape)


def merged(base: Tensors, adapter: Tensors, initial: Tensors, alpha: float | None) -> dict[str, Any]:
    """Merge in float64."""
    result = {name: tensor.double() for name, tensor in base.items()}
    adapter = {name: tensor.double() for name, tensor in adapter.items()}
    initial = {name.removeprefix("model."): tensor.double() for name, tensor in initial.items()}
    for name, tensor in adapter.items():
        module, _, kind = name.rpartition(".")
        weight = f"{module}.weight"
        if kind == "lora_A":
            w = result[weight]
            if initial:
                w = w - initial[f"{module}.init_lora_B"] @ initial[f"{module}.init_lora_A"]
            result[weight] = low_rank(w, adapter, module, alpha)
        elif kind == "disha":
            result[weight] = (bone if tensor.dim() == 2 else bat)(result[weight], tensor)
        elif kind != "lora_B":
            result[name] = tensor
    return result


@pytest.mark.parametrize("name", ["LoRA", "PiSSA", "DiSHA bone", "DiSHA bat"])
def test_merged_values_are_torch_s(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    base = {
        name: torch.from_numpy(array).bfloat16()
        for name, array in random_checkpoint(CONFIGS["rwkv7"], optional=False).items()
    }
    adapter = {name: torch.from_numpy(array).bfloat16() for name, array in case.adapter.items()}
    initial = {name: torch.from_numpy(array).bfloat16() for name, array in (case.initial or {}).items()}
    for file, tensors in (("base", base), ("adapter", adapter), ("init", initial)):
        torch.save(tensors, tmp_path / f"{file}.pth")
    init = tmp_path / "init.pth" if initial else None
    merge(tmp_path / "base.pth", tmp_path / "adapter.pth", tmp_path / "m.h5", init=init, **case.options)
    export(tmp_path / "m.h5", tmp_path / "m.pth")
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    expected = merged(base, adapter, initial, case.options.get("alpha"))
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key].float().numpy(), tensor.bfloat16().float().numpy(), err_msg=key)
