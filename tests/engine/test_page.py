"""The examples of docs/engine.md run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import ROOT, run_python


def test_the_pages_python_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cached = []
    for _ in range(2):
        names = run_python(ROOT / "docs" / "engine.md")
        cached.append(names["cache"].stats.disk_hits)
    assert len(names["texts"]) == 4
    assert cached == [0, 1]  # the second run finds the first one's states; its second prompt finds its own
    assert "cancelled" in capsys.readouterr().out
