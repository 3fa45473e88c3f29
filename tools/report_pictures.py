"""Draws the pictures of docs/reports.md: those that inspect --html and diff --html have of the demo model.

python -m tools.report_pictures
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.demo import demo_model_path
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.diff import compare
from rwkv_cy.toolkit.pages.differences import LayerDifferences, differences_picture, members_picture
from rwkv_cy.toolkit.pages.markup import Markup
from rwkv_cy.toolkit.pages.numbers_of_model import (
    curve_picture,
    half_life_picture,
    histogram_picture,
    size_picture,
)
from rwkv_cy.toolkit.pages.svg import standalone
from rwkv_cy.toolkit.places import places
from rwkv_cy.toolkit.survey import survey

__all__ = ["FOLDER", "main", "pictures"]

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
#: Size on a page of the documentation.
_SCALE = 1.25


def pictures() -> dict[str, str]:
    """Return the text of each SVG file by its name."""
    drawn = {**_model_pictures(), **_diff_pictures()}
    missing = [name for name, svg in drawn.items() if svg is None]
    if missing:
        raise ValueError(f"expected a picture for each name, got none for {', '.join(missing)}")
    return {name: standalone(svg, _SCALE) for name, svg in drawn.items() if svg is not None}


def _model_pictures() -> Mapping[str, Markup | None]:
    with Checkpoint.open(demo_model_path()) as checkpoint:
        found = survey(checkpoint)
    decay = next(one for one in found.maps.values() if one.curve.role == "decay")
    mix = next(one for one in found.maps.values() if one.curve.role == "mix")
    group = "att matrices"
    matrix = "att.key.weight"
    return {
        "decay.svg": curve_picture(decay),
        "half-life.svg": half_life_picture(decay),
        "token-shift.svg": curve_picture(mix),
        "weights.svg": histogram_picture(group, found.groups[group]),
        "size-by-layer.svg": size_picture(matrix, found.sizes[matrix], found.layers),
    }


def _diff_pictures() -> Mapping[str, Markup | None]:
    with tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder) / "q8.h5"
        convert(demo_model_path(), quantized, dtype="q8")
        with Checkpoint.open(demo_model_path()) as a, Checkpoint.open(quantized) as b:
            where = places(a.shapes, ())
            by_layer = LayerDifferences(where)
            report = compare(a, b, exponents=by_layer.counters)
    return {
        "diff-by-name.svg": members_picture(report, by_layer.layers, where),
        "diff-by-layer.svg": differences_picture(by_layer),
    }


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, "utf-8")
        print(f"{FOLDER / name}: {len(text):,} characters")


if __name__ == "__main__":
    main()
