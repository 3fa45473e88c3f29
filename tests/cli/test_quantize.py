from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.toolkit.inspect import inspect


@pytest.mark.parametrize(("options", "dtype"), [((), "q8"), (("--dtype", "q6"), "q6"), (("--dtype", "q4"), "q4")])
def test_a_checkpoint_is_quantized(run: Run, small: Path, tmp_path: Path, options: tuple[str, ...], dtype: str) -> None:
    result = run("quantize", small, tmp_path / "m.h5", *options)
    assert (result.code, result.err) == (0, "")
    assert dtype in result.out
    report = inspect(tmp_path / "m.h5")
    assert set(report.dtypes) == {dtype, "f16", "f32"}
    assert report.problems == ()


def test_it_is_convert_with_a_type(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("quantize", small, tmp_path / "a.h5").code == 0
    assert run("convert", small, tmp_path / "b.h5", "--dtype", "q8").code == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_model_file_is_quantized_and_keeps_its_fingerprint(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("convert", small, tmp_path / "m.h5").code == 0
    assert run("quantize", tmp_path / "m.h5", tmp_path / "q.h5").code == 0
    assert inspect(tmp_path / "q.h5").fingerprint == inspect(tmp_path / "m.h5").fingerprint
    assert inspect(tmp_path / "q.h5").tokenizer == "bytes"


def test_lossy_from_lossy_needs_force(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("quantize", small, tmp_path / "q8.h5").code == 0
    for options in ((), ("--dry-run",)):
        result = run("quantize", tmp_path / "q8.h5", tmp_path / "q4.h5", "--dtype", "q4", *options)
        assert result.code == 1
        assert "is already quantized (" in result.err
        assert "--force" in result.err
    assert not (tmp_path / "q4.h5").exists()
    result = run("quantize", tmp_path / "q8.h5", tmp_path / "q4.h5", "--dtype", "q4", "--force")
    assert result.code == 0
    assert "quantized matrices are rounded a second time, to q4" in result.err
    assert run("verify", tmp_path / "q4.h5").code == 0


def test_dry_run_says_what_stays(run: Run, small: Path, tmp_path: Path) -> None:
    result = run("quantize", small, tmp_path / "m.h5", "--dry-run")
    rows = [line.split() for line in result.out.splitlines()]
    assert any(row[1:4] == ["embedding", "f32", "f16"] for row in rows)
    assert any(row[1:4] == ["matrix", "f32", "q8"] for row in rows)
    assert any(row[1:4] == ["vector", "f32", "f32"] for row in rows)
    assert not (tmp_path / "m.h5").exists()


def test_types_are_told_by_help(run: Run) -> None:
    assert "{q8,q6,q4}" in run("quantize", "--help").out
    assert "{keep,f64,f32,f16,bf16,bf12,q8,q6,q4}" in run("convert", "--help").out
    assert run("quantize", "a", "b", "--dtype", "f16").code == 2
