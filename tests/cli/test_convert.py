from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, small_parameters, write_small
from cli.conftest import Run
from rwkv_cy.cli import progress
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.toolkit.inspect import inspect


def test_convert_says_what_it_did(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    result = run("convert", kjv_checkpoint, tmp_path / "m.h5", "--dtype", "f32")
    assert (result.code, result.err) == (0, "")
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in result.out.splitlines())
    assert lines["architecture"] == "RWKV-4"
    assert lines["parameters"] == "1,352,448"
    assert lines["tokenizer"] == "bytes"
    assert lines["tensors"] == "70 bf16, 44 f32"
    assert lines["source sha256"] == hashlib.sha256(kjv_checkpoint.read_bytes()).hexdigest()
    assert inspect(tmp_path / "m.h5").dtypes == {"f32": 44, "bf16": 70}


def test_dry_run_writes_nothing(run: Run, small: Path, tmp_path: Path) -> None:
    result = run("convert", small, tmp_path / "m.h5", "--dtype", "bf16", "--dry-run")
    assert (result.code, result.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == [small.name]
    matrices = sum(array.size for name, array in small_parameters().items() if array.ndim == 2)
    rows = [line.split() for line in result.out.splitlines()]
    assert ["tensors", "kind", "from", "to", "bytes", "in", "bytes", "out"] in rows
    assert ["1", "embedding", "f32", "bf16", "32.8", "kB", "16.4", "kB"] in rows
    assert any(row[1:4] == ["vector", "f32", "f32"] for row in rows)
    assert any(row[1:4] == ["matrix", "f32", "bf16"] for row in rows)
    assert matrices > 0
    assert "memory needed" in result.out
    assert "disk needed" in result.out
    assert result.out.endswith("dry run: nothing was written\n")


def test_dry_run_warns_of_what_is_there(run: Run, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    assert run("convert", small, target).code == 0
    before = target.read_bytes()
    result = run("convert", small, target, "--dtype", "f16", "--dry-run")
    assert result.code == 0
    assert f"warning: {target} already exists; --force replaces it, if it is a model file" in result.err
    assert run("convert", small, target, "--dtype", "f16", "--dry-run", "--force").err == ""
    assert target.read_bytes() == before


def test_dry_run_finds_what_would_fail(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("convert", small, small, "--dry-run", "--force").code == 3
    assert run("convert", small, tmp_path / "none" / "t", "--dry-run").code == 3


def test_an_existing_file_needs_force(run: Run, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    assert run("convert", small, target).code == 0
    before = target.read_bytes()
    result = run("convert", small, target, "--dtype", "f16")
    assert result.code == 3
    assert "already exists" in result.err
    assert target.read_bytes() == before
    assert run("convert", small, target, "--dtype", "f16", "--force").code == 0
    assert inspect(target).dtypes.keys() == {"f16", "f32"}


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_force_replaces_nothing_but_a_model_file(run: Run, small: Path, tmp_path: Path, command: str) -> None:
    model = tmp_path / "m.h5"
    assert run("convert", small, model).code == 0
    precious = tmp_path / "precious.txt"
    precious.write_bytes(b"precious")
    for target in (precious, small):
        before = target.read_bytes()
        for options in ((), ("--dry-run",)):
            result = run(command, model, target, "--force", *options)
            assert result.code == 3
            assert result.err.endswith(
                f"{target} is not a model file; choose another name (are source and target swapped?)\n"
            )
        assert target.read_bytes() == before
    model.write_bytes(model.read_bytes()[:-1])
    assert run(command, small, model, "--force").code == 0
    assert inspect(model).problems == ()


def test_a_target_named_as_a_checkpoint(run: Run, small: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.h5"
    assert run("convert", small, model).code == 0
    before = small.read_bytes()
    result = run("convert", model, small)
    assert result.code == 3
    assert result.err.endswith(
        f"{small} already exists, and its name is that of a checkpoint: are SOURCE and TARGET swapped?\n"
    )
    assert small.read_bytes() == before
    result = run("convert", model, tmp_path / "new.GGUF")
    assert result.code == 0
    assert "new.GGUF: will be an HDF5 model file despite its name" in result.err


def test_values_that_are_not_finite_are_warned_of(run: Run, tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", vocab=9, head__weight=numbers(np.nan, shape=(9, 32)))
    result = run("convert", source, tmp_path / "t")
    assert result.code == 0
    assert "warning: head.weight: 1 NaN and 0 infinite numbers in the source" in result.err
    assert "no tokenizer is known for a vocabulary of 9 tokens" in result.err


@pytest.mark.parametrize(("tokenizer", "stored"), [("none", "none"), ("bytes", "bytes"), ("auto", "bytes")])
def test_the_tokenizer_is_stored(run: Run, small: Path, tmp_path: Path, tokenizer: str, stored: str) -> None:
    assert run("convert", small, tmp_path / "t", "--tokenizer", tokenizer).code == 0
    assert inspect(tmp_path / "t").tokenizer == stored


def test_a_tokenizer_that_is_missing_is_an_error(run: Run, small: Path, tmp_path: Path) -> None:
    result = run("convert", small, tmp_path / "t", "--tokenizer", "none.json")
    assert result.code == 3
    assert "none.json" in result.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal(run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    assert run("convert", small, tmp_path / "bar.h5").code == 0
    assert "bar.h5" in terminal.getvalue()
    drawn = len(terminal.getvalue())
    for index, option in enumerate(["--quiet", "--no-progress"]):
        assert run("convert", small, tmp_path / f"{index}.h5", option).code == 0
    assert len(terminal.getvalue()) == drawn


def test_a_bar_counts_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    with progress.progress_bar("label", enabled=True) as advance:
        assert advance is not None
        advance(500, 1000)
        advance(1000, 1000)
    assert "label" in terminal.getvalue()


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    with progress.progress_bar("label", enabled=True) as advance:
        assert advance is None


def test_the_hash_runs_while_modules_are_imported_and_then_turns_are_as_before(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, bool]] = []

    def refuse(*arguments: object, source_hash: SourceHash, **options: object) -> None:
        seen.append((sys.getswitchinterval(), source_hash.files == (FileIdentity.of(small),)))
        raise ConfigError("stop here")

    monkeypatch.setattr("rwkv_cy.toolkit.convert.convert", refuse)
    before = sys.getswitchinterval()
    assert run("convert", small, tmp_path / "m.h5").code == 1
    assert seen == [(pytest.approx(0.0002), True)]
    assert sys.getswitchinterval() == before
    assert "rwkv_cy-sha256" not in {thread.name for thread in threading.enumerate()}


def test_a_bar_that_is_not_needed_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys, "stderr", terminal := Terminal())
    with progress.progress_bar("label", delay=60) as advance:
        assert advance is not None
        advance(1000, 1000)
    assert terminal.getvalue() == ""
