"""The report that every benchmark prints: machine, versions and a table, as Markdown or JSON."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import rwkv_cy
from rwkv_cy.kernels.dispatch import active_instruction_set

__all__ = ["Report", "median", "ratio"]

#: Flags of /proc/cpuinfo that determine which kernels a processor can run.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16")
#: A cell that is a number or empty; columns of such cells are right-aligned.
_FIGURE = re.compile(r"[+-]?\d|$")


@dataclass
class Report:
    """A table, and the information needed to interpret it.

    Attributes
    ----------
    title : str
    columns : sequence of str
    rows : list of sequence of str
        Cells as they are printed.
    notes : list of str
        Printed below the table.
    values : dict
        The numbers behind it, for ``--json``.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "title": self.title,
            "machine": _machine(),
            "versions": _versions(),
            "notes": self.notes,
            **self.values,
        }

    def print(self, *, as_json: bool) -> None:
        """Print the report: Markdown, or JSON."""
        if as_json:
            json.dump(self.document(), sys.stdout, indent=2)
            print()
            return
        print(f"{self.title}\n")
        figures = [all(_FIGURE.match(row[column]) for row in self.rows) for column in range(len(self.columns))]
        rows = [self.columns, ["---:" if right else "---" for right in figures], *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.columns))]
        for row in rows:
            print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        print()
        for note in (*self.notes, _machine(), ", ".join(f"{name} {version}" for name, version in _versions().items())):
            print(note)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of adjacent runs, which other load on the machine affects equally."""
    return statistics.median(own / other for own, other in zip(ours, theirs, strict=True))


def _machine() -> str:
    try:
        pairs = [line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines()]
        info = {key.strip(): value.strip() for key, value in pairs}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, ValueError):
        return platform.processor()
    flags = " ".join(flag for flag in _FLAGS if flag in info.get("flags", "").split())
    name = f"{info.get('model name', platform.machine())} (family {info.get('cpu family')}, model {info.get('model')})"
    return f"{len(os.sched_getaffinity(0))} cores of an {name}, {flags}, {memory:.0f} GiB"


def _versions() -> dict[str, str]:
    return {
        "rwkv_cy": f"{rwkv_cy.__version__} ({active_instruction_set()})",
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "h5py")},
        "Linux": platform.release(),
    }
