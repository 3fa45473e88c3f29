"""Modules import from lower layers only; unlike import-linter, this reads Cython files too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import layers as tool

ROOT, PACKAGE = tool.ROOT, tool.PACKAGE
#: "cimport a.b", "from a.b cimport c", and the same two with "import"; names in parentheses may span lines.
IMPORT = re.compile(
    r"^[ \t]*(?:from\s+(?P<origin>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n(]+)|c?import\s+(?P<modules>[\w., ]+))",
    re.MULTILINE,
)


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


def breaches(layers: list[list[str]], module: str, source: str) -> list[str]:
    """Return what the module imports from its neighbours, from above, or through the package itself."""
    height = {name: -depth for depth, names in enumerate(layers) for name in names}
    own = module.split(".")[1]
    others = {name.split(".")[1]: name for name in imported(source, module) if "." in name}
    others.pop("__version__", None)
    return [name for other, name in sorted(others.items()) if other != own and height.get(other, 1) >= height[own]]


def sources() -> list[Path]:
    """Return every module of the package but its own __init__, and what Cython modules include."""
    suffixes = (".py", ".pyx", ".pxd", ".pxi")
    found = (path for path in (ROOT / PACKAGE).rglob("*") if path.suffix in suffixes)
    return sorted(set(found) - {ROOT / PACKAGE / "__init__.py"})


def test_modules_import_downwards() -> None:
    layers = tool.layers()
    wrong = {
        path.relative_to(ROOT).as_posix(): found
        for path in sources()
        if (found := breaches(layers, ".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text("utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "from rwkv_cy.architectures.rwkv4 cimport TimeMix",
        "from rwkv_cy.architectures cimport rwkv4",
        "from ..architectures.rwkv4 cimport TimeMix",
        "from rwkv_cy cimport architectures",
        "from rwkv_cy cimport (  # a higher layer\n    architectures,\n)",
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
    layers = [["architectures"], ["kernels"], ["errors"]]
    assert len(breaches(layers, "rwkv_cy.kernels.wkv4", f"import numpy\n{line}\n")) == 1


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
    layers = [["architectures"], ["kernels"], ["errors"]]
    assert breaches(layers, "rwkv_cy.kernels.wkv4", line) == []


def test_the_page_lists_every_module_with_what_it_owns() -> None:
    listed = re.findall(r"^ *- `([\w.]+)`: (.+)$", tool.markdown(), re.MULTILINE)
    assert all(sentence.strip() for _, sentence in listed)
    assert sorted(name for name, _ in listed) == sorted(
        ".".join(part for part in path.relative_to(ROOT / PACKAGE).with_suffix("").parts if part != "__init__")
        for path in sources()
        if path.suffix in (".py", ".pyx")
    )


def test_a_module_without_a_docstring_is_an_error(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('# cython: language_level=3\n\n"""What it owns.\n\nMore.\n"""\n', "utf-8")
    assert tool.first_line(module) == "What it owns."
    module.write_text("import os\n", "utf-8")
    with pytest.raises(ValueError, match="expected a docstring at its beginning"):
        tool.first_line(module)
