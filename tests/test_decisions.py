"""The records in docs/adr: their numbers, and that an older one names the later ones that change it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "adr"
RECORDS = {int(path.name[:4]): path for path in sorted(FOLDER.glob("0*.md"))}
LINK = re.compile(r"\]\((\d{4})-[a-z0-9-]+\.md\)")
STATUS = re.compile(r"(Accepted|Superseded by \[decision \d+\])[.;(].*\.|Accepted\.")


def status(number: int) -> str:
    """Return the first line below the heading of a record."""
    return RECORDS[number].read_text("utf-8").splitlines()[2]


def test_they_are_numbered() -> None:
    assert list(RECORDS) == list(range(1, len(RECORDS) + 1))
    assert len(RECORDS) == len(list(FOLDER.glob("0*.md")))


@pytest.mark.parametrize("number", RECORDS)
def test_a_record_has_its_number_and_a_status(number: int) -> None:
    assert RECORDS[number].read_text("utf-8").startswith(f"# {number}. ")
    assert STATUS.fullmatch(status(number))


@pytest.mark.parametrize("number", RECORDS)
def test_an_earlier_record_names_the_later_one_that_changes_it(number: int) -> None:
    """And the reverse: who reads either of them learns of the other."""
    named = {int(other) for other in LINK.findall(status(number))}
    assert {other for other in named if number not in map(int, LINK.findall(status(other)))} == set()
