"""Names of the parts that a file is cut into, and of the list of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["LIST_SUFFIX", "is_part_name", "join_hint", "list_of"]

LIST_SUFFIX = ".parts.json"
_PART_NAME = r"(?s:(.+)\.\d{5}-of-\d{5})"


def is_part_name(name: str) -> bool:
    """Tell whether a file of this name may be a part: ``model.h5.00001-of-00003``."""
    return _match(name) is not None


def _match(name: str) -> re.Match[str] | None:
    return re.fullmatch(_PART_NAME, name) if "-of-" in name else None


def list_of(path: Path) -> Path | None:
    """Return the list that a path names, or that of the part that it names; None for other names."""
    if path.name.endswith(LIST_SUFFIX):
        return path
    match = _match(path.name)
    return None if match is None else path.with_name(f"{match[1]}{LIST_SUFFIX}")


def join_hint(paths: Iterable[Path]) -> str | None:
    """Return how to join the parts that these paths name: of the first whose list is on the disk; None without one."""
    for path in paths:
        listed = list_of(path)
        if listed is not None and os.path.isfile(listed):  # noqa: PTH113 (an impossible name is not a file)
            from shlex import quote  # which few files need

            whole = listed.with_name(listed.name[: -len(LIST_SUFFIX)])
            return f"join the parts first: rwkv-cy join {quote(str(listed))} {quote(str(whole))}"
    return None
