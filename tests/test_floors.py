"""Modules keep to the floors: import-linter reads .py files alone and knows no compiled module, so this reads all."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "rwkv_cy"
#: "cimport a.b", "from a.b cimport c", and the same two with "import"; names in parentheses may span lines.
IMPORT = re.compile(
    r"^[ \t]*(?:from\s+(?P<origin>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n(]+)|c?import\s+(?P<modules>[\w., ]+))",
    re.MULTILINE,
)


def floor_table() -> list[list[str]]:
    """Return the rooms of each floor, the highest first, from the contract that import-linter checks."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[room.strip() for room in re.split("[|:]", line)] for line in layers]


def imported(source: str, module: str) -> set[str]:
    """Return the absolute names of what the Cython `source` of `module` imports from the package."""
    found = set()
    for match in IMPORT.finditer(re.sub(r"#.*", "", source.replace("\\\n", " "))):
        names = (match["names"] or match["modules"]).strip("() \n").split(",")
        plain = [name.split()[0] for name in names if name.strip()]
        if match["modules"]:
            found |= set(plain)
            continue
        origin = match["origin"]
        dots = len(origin) - len(origin.lstrip("."))
        if dots:
            origin = ".".join([*module.split(".")[:-dots], *filter(None, [origin.lstrip(".")])])
        found |= {f"{origin}.{name}" for name in plain}
    return {name for name in found if name.split(".")[0] == PACKAGE}


def breaches(floors: list[list[str]], module: str, source: str) -> list[str]:
    """Return what the module imports from its own floor's other rooms, from above, or through the front door."""
    height = {room: -depth for depth, rooms in enumerate(floors) for room in rooms}
    own = module.split(".")[1]
    others = {name.split(".")[1]: name for name in imported(source, module) if "." in name}
    others.pop("__version__", None)
    return [name for room, name in sorted(others.items()) if room != own and height.get(room, 1) >= height[own]]


def sources() -> list[Path]:
    """Return every module of the package but its front door, and what Cython modules include."""
    suffixes = (".py", ".pyx", ".pxd", ".pxi")
    found = (path for path in (ROOT / PACKAGE).rglob("*") if path.suffix in suffixes)
    return sorted(set(found) - {ROOT / PACKAGE / "__init__.py"})


def test_modules_import_downwards() -> None:
    floors = floor_table()
    wrong = {
        path.relative_to(ROOT).as_posix(): found
        for path in sources()
        if (found := breaches(floors, ".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text("utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "from rwkv_cy.architectures.rwkv4 cimport TimeMix",
        "from rwkv_cy.architectures cimport rwkv4",
        "from ..architectures.rwkv4 cimport TimeMix",
        "from rwkv_cy cimport architectures",
        "from rwkv_cy cimport (  # the one above\n    architectures,\n)",
        "from rwkv_cy.architectures.rwkv4 cimport (\n    TimeMix,\n    ChannelMix,\n)",
        "from .. import architectures",
        "cimport rwkv_cy.architectures.rwkv4 as r4",
        "import numpy, rwkv_cy.architectures",
        "    from rwkv_cy.architectures import rwkv4",
        "from rwkv_cy.unheard_of cimport thing",
        "from rwkv_cy import Model",
    ],
)
def test_a_breach_is_seen(line: str) -> None:
    floors = [["architectures"], ["kernels"], ["errors"]]
    assert len(breaches(floors, "rwkv_cy.kernels.wkv4", f"import numpy\n{line}\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "from rwkv_cy.kernels.matrix cimport Matrix",
        "from .matrix cimport Matrix",
        "from . cimport matrix",
        "from rwkv_cy.errors import KernelError",
        "from rwkv_cy import __version__",
        "from libc.stdint cimport uint16_t",
        'cdef extern from "kernels.h" nogil:',
        "# from rwkv_cy.architectures cimport rwkv4",
    ],
)
def test_what_is_allowed_passes(line: str) -> None:
    floors = [["architectures"], ["kernels"], ["errors"]]
    assert breaches(floors, "rwkv_cy.kernels.wkv4", line) == []
