"""The example of docs/grammars.md runs."""

from __future__ import annotations

import pytest

from pages import ROOT, run_python


def test_the_pages_python_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")
    monkeypatch.chdir(ROOT)
    run_python(ROOT / "docs" / "grammars.md")
    assert capsys.readouterr().out == "True grammar\n"
