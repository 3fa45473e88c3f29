from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_safetensors
from cli.conftest import Run

KEY = "blocks.1.att.key"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter of the small model, with a norm."""
    rng = np.random.default_rng(0)
    tensors = {
        f"{KEY}.lora_A": rng.standard_normal((4, 32)).astype("f4"),
        f"{KEY}.lora_B": rng.standard_normal((32, 4)).astype("f4"),
        "ln_out.bias": np.ones(32, "f4"),
    }
    return write_safetensors(tmp_path / "adapter.pth", tensors)


def test_it_says_what_it_changed(run: Run, small: Path, adapter: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    result = run("merge", small, adapter, target, "--alpha", 8)
    assert (result.code, result.err) == (0, "")
    assert "changed         LoRA 1, whole tensor 1\n" in result.out
    different = json.loads(run("diff", small, target, "--json").out)["tensors"][:3]
    assert [tensor["difference"]["differing"] > 0 for tensor in different] == [True, True, False]
    assert run("merge", small, adapter, target, "--alpha", 8).code == 3
    assert run("merge", small, adapter, target, "--alpha", 8, "--force", "--quiet").out == ""


def test_dry_run(run: Run, small: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("merge", small, adapter, tmp_path / "m.h5", "--alpha", 8, "--dry-run")
    assert result.code == 0
    assert "changed         LoRA 1, whole tensor 1\n" in result.out
    assert result.out.endswith("dry run: nothing was written\n")
    plan = json.loads(run("merge", small, adapter, tmp_path / "m.h5", "--alpha", 8, "--dry-run", "--json").out)
    assert plan["changes"] == {f"{KEY}.weight": "LoRA", "ln_out.bias": "whole tensor"}
    assert not (tmp_path / "m.h5").exists()
    report = json.loads(run("merge", small, adapter, tmp_path / "m.h5", "--alpha", 8, "--json").out)
    assert report["changes"] == plan["changes"]


def test_options_reach_the_merge(run: Run, small: Path, adapter: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    assert run("merge", small, adapter, target, "--alpha", 8, "--weight", 0, "--dtype", "bf16").code == 0
    report = json.loads(run("diff", small, target, "--tensors", "ln_out.*", "--json").out)
    assert report["same"] is True
    init = write_safetensors(tmp_path / "init", {f"model.{KEY}.init_lora_A": np.zeros((4, 32), "f4")})
    assert "initial factor B missing" in run("merge", small, adapter, tmp_path / "n.h5", "--init", init).err
    square = write_safetensors(tmp_path / "square", {f"{KEY}.bone": np.zeros((2, 16, 16), "f4")})
    assert "choose with" in run("merge", small, square, tmp_path / "n.h5").err
    assert run("merge", small, square, tmp_path / "n.h5", "--bone-blocks", "rows").code == 0


def test_errors(run: Run, small: Path, adapter: Path, tmp_path: Path) -> None:
    result = run("merge", small, adapter, tmp_path / "m.h5")
    assert result.code == 1
    assert "pass alpha= (--alpha; 32 unless it was chosen)" in result.err
    result = run("merge", adapter, small, tmp_path / "m.h5")
    assert result.code == 1
    assert "a LoRA adapter" in result.err
    assert run("merge", small, adapter, adapter, "--alpha", 8).code == 3
    assert run("merge", small, adapter, tmp_path / "m.h5", "--alpha", "x").code == 2
