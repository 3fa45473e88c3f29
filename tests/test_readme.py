"""The README and the pages of docs/ are correct: commands and Python run, and links resolve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages import ROOT, blocks, run_commands, run_python
from rwkv_cy.cli.main import main

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?://|#)([^)#\s]+)(?:#([^)\s]+))?\)")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to work in, with a link to the checkout's data."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("workplace")
def test_the_readmes_commands_run_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        ran = run_commands(ROOT / "README.md", capsys)
        assert {"convert", "inspect", "verify", "generate"} <= set(ran)


@pytest.mark.usefixtures("workplace")
def test_the_readmes_python_runs_twice_and_without_its_commands() -> None:
    for _ in range(2):
        names = run_python(ROOT / "README.md")
        assert names["ys"].shape == (10, 64)
        assert names["again"].fingerprint == names["model"].fingerprint


@pytest.mark.usefixtures("workplace")
def test_the_start_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "generate" in run_commands(ROOT / "docs" / "index.md", capsys)
    assert "model" in run_python(ROOT / "docs" / "index.md")
    assert capsys.readouterr().out.strip()


@pytest.mark.usefixtures("workplace")
def test_the_page_of_reports_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run_commands(ROOT / "docs" / "reports.md", capsys) == ["inspect", "convert", "diff"]
        assert run_python(ROOT / "docs" / "reports.md")["difference"].same


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150


@pytest.mark.usefixtures("workplace")
def test_the_guides_python_runs_twice_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        names = run_python(ROOT / "docs" / "guide.md")
    printed = capsys.readouterr().out
    assert "missing.h5: cannot open it" in printed
    assert names["y"].shape == (32,)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_need_a_file_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        for command in block.commands() if not block.runs else ():
            for words in command.stages():
                if words[0] == "rwkv-cy":
                    assert main(words[1:]) in (0, 3), command.line  # 3: no such file; 2 would be a wrong command line


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    pattern = re.compile(r"(?:`|\$ |^)make (?:[A-Z_]+=\S+ )*([a-z0-9-]+)", re.MULTILINE)
    named = {target for page in PAGES for target in pattern.findall(page.read_text("utf-8"))}
    assert {"demo", "test", "docs"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists() or path.with_suffix(".md").exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"
