"""The README's speeds are those of docs/performance.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.speed_table import speed_table

ROOT = Path(__file__).resolve().parent.parent


def test_the_readme_has_the_table() -> None:
    """Print it with ``python -m tools.speed_table``."""
    assert speed_table() in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("dtype", "measurement", "sentence"),
    [
        ("bf16", "decode, % of bandwidth", "{} % of the measured memory bandwidth in `bf16`"),
        ("q8", "decode, % of bandwidth", "{} % in `q8`"),
        ("q4", "decode, % of bandwidth", "{} % in `q4`"),
        ("q4", "batch of 16, times its products", "A batch of 16 in `q4` takes {} times as long"),
    ],
)
def test_the_readme_has_the_figures_of_one_model(dtype: str, measurement: str, sentence: str) -> None:
    lines = (ROOT / "docs" / "performance.md").read_text("utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith(f"| RWKV-7 0.4B, {dtype} "))
    header = lines[max(i for i in range(lines.index(row)) if lines[i].startswith("| ---")) - 1]
    cells = dict(zip(_cells(header), _cells(row), strict=True))
    assert sentence.format(cells[measurement].rstrip("%")) in (ROOT / "README.md").read_text("utf-8")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]
