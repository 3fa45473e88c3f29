"""Prefixes that wrappers put in front of all names: ``module.``, ``_orig_mod.``, ``model.`` and the like."""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["without_prefixes"]

#: Names of the head, which some projects keep outside of the model that they wrap.
_HEADS = (["head", "weight"], ["lm_head", "weight"])


def without_prefixes(names: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the names without what all of them share in front, from the longest prefix to none.

    A prefix ends with a dot. A lone head need not share it: it loses what it has of it.

    Parameters
    ----------
    names : collection of str
        Names of all tensors of a file.

    Yields
    ------
    dict of str to str
        The full names by what remains of them, in the same order.
    """
    heads = [name for name in names if name.split(".")[-2:] in _HEADS]
    head = heads[0] if len(heads) == 1 else None
    prefix = _shared([name for name in names if name != head])
    while prefix:
        yield {name[len(prefix if name != head else _shared([name, prefix + "x"])) :]: name for name in names}
        prefix = prefix[: prefix.rfind(".", 0, -1) + 1]
    yield {name: name for name in names}


def _shared(names: Collection[str]) -> str:
    """Return the longest prefix of all names that ends with a dot; empty if there is none."""
    if not names:
        return ""
    first, last = min(names), max(names)  # what these two share, all between them share
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind(".", 0, length) + 1]
