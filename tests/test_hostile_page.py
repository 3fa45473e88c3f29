"""docs/hostile.md names the test of each guarantee; all of them exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "hostile.md"


def promises() -> list[tuple[str, str]]:
    """Return (file, test) of every row: files are in backticks, the tests of those before a colon follow it."""
    found = []
    for row in PAGE.read_text("utf-8").splitlines():
        if not row.startswith("| ") or "`" not in row.split("|")[2]:
            continue
        for part in row.split("|")[2].split(";"):
            files, tests = re.findall(r"`([^`]+\.py)`", part), re.findall(r"\btest_\w+(?!\w*\.py)", part.split(":")[-1])
            found += [(file, test) for file in files for test in tests]
    return found


def test_every_test_that_the_page_names_is_there() -> None:
    named = promises()
    assert len(named) > 100
    missing = [
        (file, test)
        for file, test in named
        if not re.search(rf"^def {test}\(", (TESTS / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []
