"""docs/file-format.md has the versions, types and limits of the code."""

from __future__ import annotations

import re
from pathlib import Path

from rwkv_cy.records import replace
from rwkv_cy.storage import arrays, index, schema
from rwkv_cy.storage.schema import DatasetSpec, format_version
from rwkv_cy.tensors.codecs import CODECS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "file-format.md").read_text("utf-8")


def versions() -> set[tuple[int, int]]:
    """Return the versions of files with a matrix of each type, alone, beside transposed floats, and as a transpose."""
    floats = DatasetSpec("parameters/a", "f32", (2, 1), (1, 2))
    found = set()
    for dtype, codec in CODECS.items():
        alone = DatasetSpec("parameters/b", dtype, (1,), (1, 1) if codec.matrices_only else None)
        found |= {format_version([alone]), format_version([alone, floats])}
        if codec.matrices_only and codec.factor_type is not None:
            found.add(format_version([replace(alone, transposed_blocks=True)]))
    return found


def test_the_versions_are_those_of_the_code() -> None:
    listed = {(int(major), int(minor)) for major, minor in re.findall(r"^\| (\d)\.(\d) \|", PAGE, re.MULTILINE)}
    assert listed == versions()
    major, minor = max(listed)
    assert major == schema.MAJOR
    assert f"This page is the complete specification, version {major}.{minor} of the format." in PAGE


def test_the_types_are_those_of_the_code() -> None:
    table = PAGE[PAGE.index("| `dtype` | type in HDF5") : PAGE.index("Datasets have one to eight dimensions")]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")][1:]
    assert {name for cell in first for name in re.findall("`(\\w+)`", cell)} == set(schema.ITEMSIZES)


def test_the_limits_are_those_of_the_code() -> None:
    rows = {
        "datasets": f"{schema.MAX_DATASETS:,}",
        "elements of a dataset": f"2^{schema.MAX_ELEMENTS.bit_length() - 1}",
        "index": f"{index.MAX_INDEX_BYTES >> 20} MiB",
        "header": f"{schema.MAX_HEADER_BYTES >> 20} MiB",
        "tokenizer": f"{schema.MAX_TOKENIZER_BYTES >> 20} MiB",
        "file of a kind other than `model`": f"{arrays._MAX_BYTES >> 30} GiB",
    }
    limits = PAGE[PAGE.index("## Limits") : PAGE.index("## Writing")]
    assert re.findall(r"^\| (\S.*?) \| (\S.*?) \|$", limits, re.MULTILINE) == list(rows.items())
