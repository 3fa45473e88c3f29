"""The tables of docs/reliability.md: written between two marks by the commands that made their numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CampaignRow", "DamageRow", "RunRow", "damage_table", "moments_table", "replace_between", "runs_table"]


@dataclass
class CampaignRow:
    """Results of a fault over all operations.

    Attributes
    ----------
    name, promise : str
    operations, moments : int
    left : dict of str to int
        How often what was left.
    refused : bool
        Whether this machine could not run it.
    problems : list of str
    """

    name: str
    promise: str
    operations: int = 0
    moments: int = 0
    left: dict[str, int] = field(default_factory=dict)
    refused: bool = False
    problems: list[str] = field(default_factory=list)

    def add(self, moments: int, left: Mapping[str, int]) -> None:
        """Add the results of one operation."""
        self.operations += moments > 0
        self.moments += moments
        for what, count in left.items():
            self.left[what] = self.left.get(what, 0) + count

    def merge(self, other: CampaignRow) -> None:
        """Add the results of other operations."""
        self.operations += other.operations - (other.moments > 0)
        self.add(other.moments, other.left)
        self.refused |= other.refused
        self.problems += other.problems

    def line(self) -> str:
        """Return the row in Markdown."""
        if self.refused:
            return f"| {self.name} | {self.promise} | not run: this machine does not allow it | | | | |"
        counts = [self.operations, self.moments, *(self.left.get(what, 0) for what in ("older", "new", "parts"))]
        return f"| {self.name} | {self.promise} | {' | '.join(f'{n:,}' for n in counts)} | {len(self.problems)} |"


@dataclass
class RunRow:
    """Results of a run that was killed at many moments.

    Attributes
    ----------
    name : str
    moments : int
    began, went_on, complete : int
        How often it began again, went on from a checkpoint, and was complete.
    problems : list of str
    """

    name: str
    moments: int = 0
    began: int = 0
    went_on: int = 0
    complete: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the row in Markdown."""
        counts = (self.moments, self.began, self.went_on, self.complete, len(self.problems))
        return f"| {self.name} | {' | '.join(f'{n:,}' for n in counts)} |"


@dataclass
class DamageRow:
    """Results for one format.

    Attributes
    ----------
    name : str
    size : int
        Bytes of the valid file.
    cuts, flips : int
        Files that were truncated, or had one bit flipped.
    refused : int
        Files of which nothing was read.
    same : int
        Files whose results are those of the valid file.
    slowest : float
        CPU seconds for one file, at most.
    seconds : float
        CPU seconds for all of them.
    problems : list of str
    """

    name: str
    size: int
    cuts: int = 0
    flips: int = 0
    refused: int = 0
    same: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the row in Markdown."""
        changed = self.cuts + self.flips - self.refused - self.same - len(self.problems)
        counts = (self.size, self.cuts, self.flips, self.refused, self.same, changed)
        times = f"{self.slowest:.2f} s | {self.seconds:,.0f} s"
        return f"| {self.name} | {' | '.join(f'{n:,}' for n in counts)} | {times} | {len(self.problems)} |"


def moments_table(rows: Sequence[CampaignRow]) -> str:
    """Return the table of faults in Markdown."""
    head = "| fault | afterwards | operations | moments | older | new | parts | problems |\n"
    return head + "|---|---|--:|--:|--:|--:|--:|--:|\n" + "".join(f"{row.line()}\n" for row in rows)


def runs_table(rows: Sequence[RunRow]) -> str:
    """Return the table of runs that were killed in Markdown."""
    head = "| run | moments | began again | went on | was complete | problems |\n"
    return head + "|---|--:|--:|--:|--:|--:|\n" + "".join(f"{row.line()}\n" for row in rows)


def damage_table(rows: Sequence[DamageRow]) -> str:
    """Return the table of damage in Markdown."""
    head = "| file | bytes | cuts | flipped bits | refused | same result | other result | slowest | all | problems |\n"
    return head + "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n" + "".join(f"{row.line()}\n" for row in rows)


def replace_between(page: Path, mark: str, table: str, *, rows_only: bool = False) -> None:
    """Replace the table between ``<!-- mark -->`` and ``<!-- /mark -->`` of a page.

    With `rows_only`, rows of other names stay as they are.

    Raises
    ------
    ValueError
        If the page does not have the marks once.
    """
    pattern = re.compile(rf"(<!-- {mark} -->\n)(.*?)(<!-- /{mark} -->)", re.DOTALL)

    def replaced(match: re.Match[str]) -> str:
        whole = _with_rows(match[2], table) if rows_only else table
        return f"{match[1]}\n{whole}\n{match[3]}"

    content, count = pattern.subn(replaced, page.read_text("utf-8"))
    if count != 1:
        raise ValueError(f"{page}: expected the marks <!-- {mark} --> and <!-- /{mark} --> once, got {count} of them")
    page.write_text(content, "utf-8")


def _with_rows(old: str, new: str) -> str:
    """Return the new table with those rows of the old one that have other names, in the old order."""
    head, rows = new.splitlines()[:2], {_name(line): line for line in new.splitlines()[2:]}
    kept = [rows.pop(_name(line), line) for line in old.strip().splitlines()[2:]]
    return "".join(f"{line}\n" for line in (*head, *kept, *rows.values()))


def _name(line: str) -> str:
    return line.split("|")[1].strip()
