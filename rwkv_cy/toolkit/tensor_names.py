"""The tensors that a pattern names, and what may have been meant by one that names none."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import islice

from rwkv_cy.errors import ConfigError

__all__ = ["matching_names"]

#: Names that a pattern is compared with to find what was meant.
_MOST_NAMES = 10_000
_SIMILARITY = 0.75
_WILDCARDS = frozenset("*?[")


def matching_names(names: Iterable[str], pattern: str, where: str) -> list[str]:
    """Return the names that match the pattern, in their order.

    Raises
    ------
    ConfigError
        If none does; the message names `where`, and what may have been meant.
    """
    known = list(names)
    found = known if pattern == "*" else [name for name in known if fnmatchcase(name, pattern)]
    if not found and pattern != "*":
        raise ConfigError(f"{where}: no tensor has a name that matches {pattern!r}; {_advice(known, pattern)}")
    return found


def _advice(names: list[str], pattern: str) -> str:
    from difflib import get_close_matches  # which only an error needs

    some = list(islice(names, _MOST_NAMES))
    if pattern and not _WILDCARDS & set(pattern) and any(pattern in name for name in some):
        return f"did you mean '*{pattern}*'?"
    meant = get_close_matches(pattern, some, 1, _SIMILARITY)
    if meant:
        return f"did you mean {meant[0]!r}?"
    return f"names are such as {', '.join(names[:3])}" if names else "the file has no tensors"
