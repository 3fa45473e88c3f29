"""Where tensors belong: the layer, the name within it, the kind, and the group that a report counts them in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rwkv_cy.architectures.base import Kind, ParameterSpec, Shapes
from rwkv_cy.records import dataclass

__all__ = ["Place", "places"]

_LAYER = re.compile(r"blocks\.(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)
#: Groups of the kinds that are not divided; matrices are, by the module that they belong to.
_GROUPS: Mapping[Kind, str] = {
    "embedding": "embedding",
    "head": "head",
    "table": "tables",
    "low_rank": "low-rank factors",
    "vector": "vectors",
    "state": "initial states",
}
#: A report names so many groups; tensors of further ones are in the last.
_MOST_GROUPS, _OTHERS = 16, "other tensors"


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs.

    Attributes
    ----------
    layer : int or None
        None for tensors outside the layers.
    member : str
        Name within the layer, or the whole name outside of them: equal for the same tensor of every layer.
    kind : str
        Kind of the parameter, from the architecture's table; for other tensors ``"matrix"`` or ``"vector"``, from the
        shape.
    group : str
        Words for it and its like: ``"att matrices"``.
    """

    layer: int | None
    member: str
    kind: Kind
    group: str


def places(shapes: Shapes, specs: Iterable[ParameterSpec]) -> dict[str, Place]:
    """Return the place of each tensor, by name, in the order of `shapes`.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Canonical names and shapes.
    specs : iterable of ParameterSpec
        The architecture's table; empty if the version is unknown.
    """
    kinds = {spec.name: spec.kind for spec in specs}
    groups: set[str] = set()
    result = {}
    for name, shape in shapes.items():
        match = _LAYER.fullmatch(name)
        layer, member = (int(match[1]), match[2]) if match else (None, name)
        kind = kinds.get(name) or _kind(shape)
        group = _GROUPS.get(kind) or f"{_module(member)} matrices".strip()
        if group not in groups and len(groups) >= _MOST_GROUPS:
            group = _OTHERS
        groups.add(group)
        result[name] = Place(layer, member, kind, group)
    return result


def _kind(shape: tuple[int, ...]) -> Kind:
    return "matrix" if sum(length > 1 for length in shape) > 1 else "vector"


def _module(member: str) -> str:
    """Return the module that a tensor belongs to: ``"att"`` of ``"att.key.weight"``."""
    parts = member.split(".")
    if parts[-1] in ("weight", "bias"):
        parts.pop()
    return ".".join(parts[:-1])
