"""The pictures of docs/reports.md are those that the code draws."""

from __future__ import annotations

import re
from pathlib import Path

from tools.report_pictures import FOLDER, pictures

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reports.md"


def test_the_pictures_are_current() -> None:
    """Draw them with ``python -m tools.report_pictures``."""
    drawn = pictures()
    assert {path.name for path in FOLDER.iterdir()} == drawn.keys()
    stale = [name for name, text in drawn.items() if (FOLDER / name).read_text("utf-8") != text]
    assert stale == []


def test_the_page_shows_every_picture() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([\w.-]+)\)", PAGE.read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in FOLDER.iterdir())
