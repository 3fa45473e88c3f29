"""docs/batch.md: its examples in Python run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import ROOT, run_python
from rwkv_cy.toolkit.convert import convert


def test_the_examples_run(
    kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(kjv_checkpoint, tmp_path / "model.h5")
    (tmp_path / "text.txt").write_text("In the beginning\nAnd God said\n")
    monkeypatch.chdir(tmp_path)
    names = run_python(ROOT / "docs" / "batch.md")
    assert names["report"].complete
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("2 ")
    assert printed[1] == "[None, None]"
