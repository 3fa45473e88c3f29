"""docs/training.md: its examples run, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pages import ROOT, run_commands, run_python

PAGE = ROOT / "docs" / "training.md"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "text.txt").write_text("In the beginning God created the heaven and the earth.\n" * 5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_print_what_the_page_shows(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_commands(PAGE, capsys, strict=True)
    assert ran == ["train", "generate", "tune", "generate", "tune", "merge", "generate"]
    assert (workplace / "writer.h5.training" / "loss.svg").exists()


@pytest.mark.usefixtures("workplace")
def test_the_python_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python(PAGE)
    assert names["report"].finished
    assert capsys.readouterr().out == "4 True\n"
