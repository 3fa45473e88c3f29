"""Prefixes that wrappers put in front of all names: ``module.``, ``_orig_mod.``, ``model.`` and the like."""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = ["is_head", "without_prefixes"]

#: Names of the head, which some projects keep outside of the model that they wrap.
_HEADS = ("head.weight", "lm_head.weight")
#: What the names of the layers begin with: a prefix ends before it.
_LAYERS = ("blocks.", "layers.")


def is_head(name: str) -> bool:
    """Tell whether a name, with any prefix, is that of a head."""
    return name.endswith(_HEADS) and ".".join(name.rsplit(".", 2)[-2:]) in _HEADS


def without_prefixes(names: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the names without what all of them share in front; then as they are.

    A prefix ends with a dot: the last that all names share, or the one before the names of layers. A head need not
    share it: it loses what it has of it.

    Parameters
    ----------
    names : collection of str
        Names of all tensors of a file.

    Yields
    ------
    dict of str to str
        The full names by what remains of them, in the same order; three times at most. Of two names of which the same
        remains it has the last.
    """
    heads = {name for name in names if is_head(name)}
    shared = _shared([name for name in names if name not in heads])
    before_layers = min((at for layers in _LAYERS if (at := f".{shared}".find(f".{layers}")) >= 0), default=0)
    for prefix in dict.fromkeys((shared, shared[:before_layers], "")):
        own = {head: _shared([head, f"{prefix}x"]) for head in heads}
        yield {name[len(own.get(name, prefix)) :]: name for name in names}


def _shared(names: Collection[str]) -> str:
    """Return the longest prefix of all names that ends with a dot; empty if there is none."""
    if not names:
        return ""
    first, last = min(names), max(names)  # what these two share, all between them share
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[: first.rfind(".", 0, length) + 1]
