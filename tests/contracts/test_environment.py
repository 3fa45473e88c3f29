"""The environment is read and set in one module of the package: a reader finds every variable there."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "rwkv_cy"
#: In Python and Cython, and in C.
ACCESS = re.compile(r"\bos\.(?:environb?|getenvb?|putenv|unsetenv)\b|from os import .*(?:environ|getenv)|\bgetenv\(")


def test_one_module_knows_the_environment() -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pxi", ".c", ".h")]
    found = {path.relative_to(PACKAGE).as_posix() for path in sources if ACCESS.search(path.read_text("utf-8"))}
    assert found == {"runtime.py"}
