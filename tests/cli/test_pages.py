"""``inspect --html`` and ``diff --html``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.units import byte_size


def test_inspect(run: Run, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = run("inspect", small, "--html", target)
    assert (result.code, result.err) == (0, "")
    assert "model       RWKV-4 " in result.out
    assert result.out.endswith(f"\n{target}: the report, {byte_size(target.stat().st_size)}\n")
    assert "att.key.weight" not in result.out  # the page has the tensors
    assert "att.key.weight" in run("inspect", small, "--html", target, "--force", "--stats").out


def test_diff(run: Run, small: Path, tmp_path: Path) -> None:
    run("quantize", small, tmp_path / "q.h5")
    target = tmp_path / "report.html"
    result = run("diff", small, tmp_path / "q.h5", "--html", target)
    assert (result.code, result.err) == (1, "")
    assert "result     different\n" in result.out
    assert f"{target}: the report, " in result.out
    assert run("diff", small, small, "--html", target, "--force", "--quiet") == (0, "", "")


@pytest.mark.parametrize("command", ["inspect", "diff"])
def test_json(run: Run, small: Path, tmp_path: Path, command: str) -> None:
    files = [small] * (2 if command == "diff" else 1)
    result = run(command, *files, "--json", "--html", tmp_path / "report.html")
    assert result.code == 0
    assert json.loads(result.out)["tensors"]
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("command", "code"), [("inspect", 3), ("diff", 3)])
def test_an_existing_page(run: Run, small: Path, tmp_path: Path, command: str, code: int) -> None:
    files = [small] * (2 if command == "diff" else 1)
    target = tmp_path / "report.html"
    target.write_text("mine")
    result = run(command, *files, "--html", target)
    assert (result.code, result.out) == (code, "")
    assert result.err.endswith("report.html already exists; choose another name or pass --force\n")
    result = run(command, *files, "--html", target, "--force")
    assert result.code == code
    assert "expected a report of rwkv-cy to replace" in result.err
    assert target.read_text() == "mine"
    result = run(command, *files, "--force")
    assert result.code == 2
    assert "--force replaces the report that --html writes" in result.err
