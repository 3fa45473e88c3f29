"""Print the oldest versions of its dependencies that pyproject.toml allows, as requirements for pip, one per line."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def minimum_requirements(settings: dict, extras: tuple[str, ...]) -> list[str]:
    """Return ``name==version`` for each dependency of the build, the package and the named extras."""
    project = settings["project"]
    pending = [*settings["build-system"]["requires"], *project["dependencies"]]
    pending += [f"{project['name']}[{','.join(extras)}]"]
    oldest = {}
    while pending:
        requirement = pending.pop()
        if own := re.fullmatch(rf"{re.escape(project['name'])}\[(.*)\]", requirement):
            pending += [each for extra in own[1].split(",") for each in project["optional-dependencies"][extra]]
            continue
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(>=|==)([0-9.]+)", requirement)
        if match is None:
            sys.exit(f"minimum: {requirement!r} in pyproject.toml: expected NAME>=VERSION, to know the oldest version")
        oldest[match[1]] = f"{match[1]}=={match[3]}"
    return sorted(oldest.values())


if __name__ == "__main__":
    print("\n".join(minimum_requirements(tomllib.loads(PYPROJECT.read_text("utf-8")), tuple(sys.argv[1:]))))
