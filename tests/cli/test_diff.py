from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from checkpoints import small_parameters, write_safetensors, write_small
from cli.conftest import Run


def test_the_same_numbers_in_another_format(run: Run, small: Path, tmp_path: Path) -> None:
    run("convert", small, tmp_path / "m.h5")
    result = run("diff", small, tmp_path / "m.h5")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("result     the same\n")
    assert f"A          {small} (safetensors, RWKV-4)\n" in result.out


def test_differences(run: Run, small: Path, tmp_path: Path) -> None:
    run("quantize", small, tmp_path / "q.h5")
    result = run("diff", small, tmp_path / "q.h5", "--limit", "2")
    assert result.code == 1
    lines = result.out.splitlines()
    assert "result     different" in lines
    assert "f32 / q8" in lines[-2]
    assert lines[-1].startswith("and 14 more that differ")
    loose = run("diff", small, tmp_path / "q.h5", "--tolerance", "0.1", "--limit", "0")
    assert loose.code == 0
    assert loose.out.endswith("result     the same within 0.1 of the largest number of each tensor\n")
    assert "16 within the tolerance" in loose.out
    assert run("diff", small, tmp_path / "q.h5", "--quiet").out == ""


def test_names_shapes_and_nan(run: Run, tmp_path: Path) -> None:
    parameters = small_parameters() | {
        "surplus": np.ones(3, "f4"),
        "head.weight": np.ones((9, 32), "f4"),
        "ln_out.bias": np.full(32, np.nan, "f4"),
    }
    result = run("diff", write_small(tmp_path / "a"), write_safetensors(tmp_path / "b", parameters))
    assert result.code == 1
    assert "only in B  surplus\n" in result.out
    assert "256x32 / 9x32" in result.out
    assert "NaN or Inf" in result.out
    assert result.err.count("its config is not compared") == 1


def test_json(run: Run, small: Path) -> None:
    report = json.loads(run("diff", small, small, "--json").out)
    assert report["same"] is True
    assert set(report) == {
        *("paths", "formats", "architectures", "same", "tolerance", "config", "tokenizers", "same_tokenizer"),
        *("only_in", "tensors", "problems", "schema"),
    }


def test_errors_are_not_mistaken_for_differences(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"nothing that is known")
    assert run("diff", small, tmp_path / "damaged").code == 2
    assert run("diff", small, tmp_path / "missing").code == 3
    assert run("diff", small, small, "--tolerance", "-1").code == 2
    assert run("diff", small, small, "--tensors", "x").code == 2
    assert run("inspect", tmp_path / "damaged").code == 1
