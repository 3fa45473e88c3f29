"""The layers of the package: the import contract of pyproject.toml, and the first docstring line of each module.

``python tools/layers.py`` prints the list that docs/layers.md shows.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["PACKAGE", "ROOT", "first_line", "layers", "markdown", "modules"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "rwkv_cy"
#: The first line of a docstring, which comments (directives for Cython) may precede.
_DOCSTRING = re.compile(r'\A(?:\s*#.*\n|\s*\n)*r?"""(?P<line>.+?)\s*(?:"""|\n)')


def layers(root: Path = ROOT) -> list[list[str]]:
    """Return the packages and modules of each layer, highest first, from the contract that import-linter checks."""
    settings: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (lines,) = [
        contract["layers"]
        for contract in contracts
        if contract["type"] == "layers" and contract["containers"] == [PACKAGE]
    ]
    names = [[name.strip(" ()") for name in re.split("[|:]", line)] for line in lines]
    # A name in parentheses is that of an optional layer, which may not exist.
    existing = [[name for name in layer if any(_paths(name, root))] for layer in names]
    return [layer for layer in existing if layer]


def _paths(name: str, root: Path) -> list[Path]:
    base = root / PACKAGE / name
    return [path for path in (base, base.with_suffix(".py"), base.with_suffix(".pyx")) if path.exists()]


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring.

    Raises
    ------
    ValueError
        If the module does not begin with one.
    """
    match = _DOCSTRING.match(path.read_text("utf-8"))
    if match is None:
        raise ValueError(f"{path}: expected a docstring at its beginning, got none; say in one line what it owns")
    return match["line"]


def modules(name: str, root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Yield dotted name and file of each module of a package, the package first, or of the single module `name`."""
    base = root / PACKAGE
    folder = base / name
    if not folder.is_dir():
        yield name, base / f"{name}.py"
        return
    for path in sorted(path for path in folder.rglob("*.py*") if path.suffix in (".py", ".pyx")):
        parts = path.relative_to(base).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def markdown(root: Path = ROOT) -> str:
    """Return every module of every layer, highest layer first, as Markdown."""
    lines = []
    for height, names in zip(range(len(contract := layers(root)), 0, -1), contract, strict=True):
        lines += [f"### Layer {height}: {', '.join(f'`{name}`' for name in names)}", ""]
        for name in names:
            for module, path in modules(name, root):
                indent = "  " * module.count(".")
                lines.append(f"{indent}- `{module}`: {_escaped(first_line(path))}")
        lines.append("")
    return "\n".join(lines)


def _escaped(docstring: str) -> str:
    """Return a line of reStructuredText as Markdown."""
    roles = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring)
    return roles.replace("``", "`")


if __name__ == "__main__":
    print(markdown())
