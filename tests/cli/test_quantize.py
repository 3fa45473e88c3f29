from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.toolkit.inspect import inspect


@pytest.mark.parametrize(("options", "dtype"), [((), "q8"), (("--dtype", "q6"), "q6"), (("--dtype", "q4n"), "q4n")])
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
    assert "{q8,q6,q4,q4n}" in run("quantize", "--help").out
    assert "{keep,f64,f32,f16,bf16,bf12,q8,q6,q4,q4n}" in run("convert", "--help").out
    assert run("quantize", "a", "b", "--dtype", "f16").code == 2


def test_the_error_of_each_tensor(run: Run, small: Path, tmp_path: Path) -> None:
    result = run("quantize", small, tmp_path / "m.h5", "--dtype", "q4", "--limit", 2)
    lines = result.out.splitlines()
    assert any(line.startswith("precision       16 of ") for line in lines)
    assert lines[-5].split() == ["tensor", "type", "relative", "error", "largest"]
    assert lines[-1] == "and 14 more with errors: --limit 16 lists them"
    report = json.loads(run("quantize", small, tmp_path / "m.h5", "--force", "--json").out)
    assert len(report["rounding"]) == 16
    assert report["divergence"] is None
    assert run("quantize", small, tmp_path / "m.h5", "--force", "--quiet").out == ""


def test_patterns_of_other_types(run: Run, small: Path, tmp_path: Path) -> None:
    options = ("--keep", "head.weight", "--keep", "blocks.0.*=q4", "--keep", "blocks.1.*=FP16")
    assert run("quantize", small, tmp_path / "m.h5", *options, "--limit", 0).code == 0
    dtypes = {tensor.name: tensor.dtype for tensor in inspect(tmp_path / "m.h5").tensors}
    assert dtypes["head.weight"] == "f32"
    assert {dtypes[f"blocks.{i}.att.key.weight"] for i in (0, 1)} == {"q4", "f16"}
    plan = json.loads(run("convert", small, tmp_path / "n.h5", *options, "--dry-run", "--json").out)
    assert {tensor["dtype"] for tensor in plan["tensors"]} == {"q4", "f16", "f32"}
    assert json.loads(run("convert", small, tmp_path / "n.h5", *options, "--json").out)["plan"]["nbytes"] > 0
    for wrong in ("=q8", "head.weight=q5_1", "x=int3"):
        assert run("convert", small, tmp_path / "n.h5", "--keep", wrong).code == 2
    assert run("convert", small, tmp_path / "o.h5", "--keep", "x=q8").code == 1


def test_a_text_is_predicted_by_source_and_target(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("In the beginning")
    result = run("quantize", small, tmp_path / "m.h5", "--text", tmp_path / "text")
    assert result.code == 0
    assert "tokens predicted  15\n" in result.out
    assert " nats per token, largest " in result.out
    report = json.loads(run("quantize", small, tmp_path / "m.h5", "--text", tmp_path / "text", "--force", "--json").out)
    assert report["divergence"]["kl"] > 0
    assert run("quantize", small, tmp_path / "new.h5", "--text", tmp_path / "missing").code == 3
    assert not (tmp_path / "new.h5").exists()  # the text is read first


def test_a_text_that_cannot_be_measured_is_refused_before_any_work(run: Run, small: Path, tmp_path: Path) -> None:
    text, bare, target = tmp_path / "text", tmp_path / "bare.h5", tmp_path / "new.h5"
    for words in ("", "x"):
        text.write_text(words)
        result = run("quantize", small, target, "--text", text)
        assert (result.code, result.out) == (1, "")
        assert f"{text}: expected at least two tokens, got {len(words)}" in result.err
    text.write_text("some text")
    assert run("convert", small, bare, "--tokenizer", "none").code == 0
    result = run("quantize", bare, target, "--text", text)
    assert (result.code, result.out) == (1, "")
    assert "the model has no tokenizer" in result.err
    result = run("quantize", target, small, "--text", text)
    assert (result.code, "are SOURCE and TARGET swapped?" in result.err) == (3, True)
    assert not target.exists()
    assert run("quantize", bare, target, "--text", text, "--tokenizer", "bytes").code == 0


def test_calibration(run: Run, small: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(range(32, 120)) * 4)
    files = [tmp_path / name for name in ("a.h5", "b.h5")]
    for file, options in zip(files, ((), ("--calibrate", text)), strict=True):
        result = run("quantize", small, file, "--dtype", "q4n", *options)
        assert (result.code, result.err) == (0, "")
    assert files[0].read_bytes() != files[1].read_bytes()
    assert run("verify", files[1], "--against", small).code == 0


def test_calibration_that_is_refused(run: Run, small: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"")
    target = tmp_path / "m.h5"
    result = run("quantize", small, target, "--dtype", "q4n", "--calibrate", text)
    assert (result.code, result.err) == (
        1,
        f"rwkv-cy: error: {text}: expected a text to calibrate with, got an empty one\n",
    )
    text.write_bytes(b"some text")
    result = run("quantize", small, target, "--calibrate", text)
    assert result.code == 1
    assert "calibrate: expected a matrix to quantize to q6, q4, q4n, whose scales are searched, got none" in result.err
    assert not target.exists()
