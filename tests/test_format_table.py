"""The README's table of formats says what the registries say."""

from __future__ import annotations

import re
from pathlib import Path

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.formats.writers import EXPORT_FORMATS
from tools.format_table import ROWS, format_table

ROOT = Path(__file__).resolve().parent.parent


def test_the_readme_has_the_table() -> None:
    """Print it with ``python -m tools.format_table``."""
    assert format_table() in (ROOT / "README.md").read_text("utf-8")


def test_the_table_has_every_version_and_every_format() -> None:
    header, *rows = format_table().splitlines()
    assert [f"RWKV-{cell.strip()}" for cell in header.split("|")[2:-1]] == [
        architecture.label for architecture in ARCHITECTURES.values()
    ]
    assert EXPORT_FORMATS.keys() <= {row.format for row in ROWS}
    assert sum(row.count("w") > row.count("write") for row in rows) > 5


def test_the_page_of_exports_has_every_format() -> None:
    page = (ROOT / "docs" / "export.md").read_text("utf-8")
    lines = (line for line in page.splitlines() if line.startswith("| `") and "--" not in line)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    found = {name.strip("`"): [set(re.findall("`([^`]+)`", cell)) for cell in cells] for name, *cells in rows}
    assert found == {
        name: [set(entry.suffixes), set(entry.layouts), set(entry.dtypes)] for name, entry in EXPORT_FORMATS.items()
    }
