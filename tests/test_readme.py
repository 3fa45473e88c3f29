"""The README tells the truth: its commands run, its Python runs, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any

import pytest

from rwkv_cy.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^(?P<mark><!-- .* -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?!https?://|#)([^)#\s]+)(?:#([^)\s]+))?\)")
NEEDS_A_FILE = "<!-- needs a file of yours -->"
#: Compares what a page shows with what was printed; "..." stands for anything.
SHOWN = OutputChecker()


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    runs: bool

    def commands(self) -> Iterator[tuple[list[str], str]]:
        """Give each command of a console block, and the output that stands below it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield shlex.split(line, comments=True), shown


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(match["language"], match["text"], (match["mark"] or "").strip() != NEEDS_A_FILE)
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to work in, with the checkout's data in reach."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("workplace")
def test_examples_run_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    ran = []
    for block in blocks(ROOT / "README.md"):
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.text, "README.md", "exec"), names)
            ran.append("python")
        for command, shown in block.commands():
            if command[0] == "rwkv-cy":
                assert main(command[1:]) == 0, command
                printed = capsys.readouterr().out
                assert printed.strip(), command
                assert SHOWN.check_output(shown or "...\n", printed, ELLIPSIS), printed
                ran.append(command[1])
    assert {"python", "convert", "inspect", "verify", "generate"} <= set(ran)
    assert names["ys"].shape == (9, 64)
    assert names["again"].fingerprint == names["model"].fingerprint


@pytest.mark.usefixtures("workplace")
def test_the_guides_python_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "guide.md"):
        if block.language == "python":
            exec(compile(block.text, "guide.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "missing.h5: cannot open it" in printed
    assert names["y"].shape == (32,)


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_need_a_file_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        for command, _ in block.commands():
            if command[0] == "rwkv-cy" and not block.runs:
                assert main(command[1:]) in (0, 3), command  # 3: no such file; 2 would be a wrong command line


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|\$ |^)make (?:[A-Z_]+=\S+ )*([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "docs"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists() or path.with_suffix(".md").exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"
