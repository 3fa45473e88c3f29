from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from checkpoints import numbers, write_small
from cli.conftest import Run
from rwkv_cy.toolkit.convert import convert


def test_a_sound_file(run: Run, small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5")
    result = run("verify", tmp_path / "m.h5")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("result        ok\n")
    assert "compared" in result.out
    assert "none in this file" in run("verify", small).out


def test_a_damaged_file(run: Run, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    convert(small, target)
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 0x80
    target.write_bytes(content)
    result = run("verify", target)
    assert result.code == 1
    assert result.err.startswith(f"rwkv-cy: error: {target}: ")
    assert "1 problem\n" in result.out


def test_several_problems(run: Run, tmp_path: Path) -> None:
    bad = numbers(np.nan, shape=(32,))
    result = run("verify", write_small(tmp_path / "s", ln_out__bias=bad, ln_out__weight=bad))
    assert result.code == 1
    assert "2 problems\n" in result.out
    assert result.err.count("\n") == 2


def test_json(run: Run, small: Path) -> None:
    report = json.loads(run("verify", small, "--json").out)
    assert set(report) == {"path", "format", "tensors", "bytes_read", "checksums", "problems", "against", "ok"}
    assert report["ok"] is True


def test_against_its_source(run: Run, small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5", dtype="q8")
    result = run("verify", tmp_path / "m.h5", "--against", small)
    assert (result.code, result.err) == (0, "")
    assert "rounded or quantized as a conversion does\n" in result.out
    other = write_small(tmp_path / "other", ln_out__bias=numbers(3, shape=(32,)))
    result = run("verify", tmp_path / "m.h5", "--against", other)
    assert result.code == 1
    assert f"ln_out.bias: expected 3 at (0), as {other} has it, in f32, got " in result.err
