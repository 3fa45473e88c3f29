"""The dictionary of tensors in a checkpoint, wherever a training program puts it, and the values beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_NAME_BYTES, add_entry, refuse_parts
from rwkv_cy.formats.torch_tensors import Tensor, Unusable
from rwkv_cy.records import dataclass

__all__ = ["StateDict", "find_state_dict"]

_KINDS = (Tensor, Unusable)
#: Dictionaries are looked for in so many levels of dictionaries.
_LEVELS = 3
#: A name of a layer's tensor: a dictionary that has one holds a model, or a part of one.
_OF_A_LAYER = re.compile(r"(?:.*\.)?(?:blocks|layers)\.\d+\..+")
_SHOWN_BYTES = 200
_SHOWN_DICTIONARIES = 5


@dataclass(frozen=True)
class StateDict:
    """What a checkpoint says of a model.

    Attributes
    ----------
    tensors : dict of str to Tensor or Unusable
        By name.
    others : dict of str to str
        Other values beside the tensors, as text for display.
    """

    tensors: dict[str, Tensor | Unusable]
    others: dict[str, str]

    @property
    def in_file(self) -> dict[str, Tensor]:
        """The tensors that are arrays of numbers in the file, of any type."""
        return {
            name: tensor for name, tensor in self.tensors.items() if isinstance(tensor, Tensor) and not tensor.is_empty
        }

    @property
    def usable(self) -> dict[str, Tensor]:
        """The tensors that a model can have."""
        return {name: tensor for name, tensor in self.in_file.items() if tensor.left_out is None}

    @property
    def converted(self) -> bool:
        """Whether the ``rwkv`` package converted the checkpoint."""
        return "_strategy" in self.others

    @property
    def left_out(self) -> dict[str, str]:
        """The others, described."""
        return {name: what for name, tensor in self.tensors.items() if (what := tensor.left_out) is not None}


def find_state_dict(path: Path, root: object) -> StateDict:
    """Return the tensors of a checkpoint, and the values beside them.

    They are in the only dictionary with names of layers, or else in the only one with tensors, among `root` and three
    levels of dictionaries in it.

    Parameters
    ----------
    path : Path
        The file, for messages.
    root : object
        What :func:`~rwkv_cy.formats.pickle_vm.unpickle` returned.

    Raises
    ------
    UnsupportedError
        If several dictionaries could be the model, or it is one rank's part of one.
    FormatError
        If there are no tensors, or a name is invalid.
    """
    found = _choose(path, root)
    tensors: dict[str, Tensor | Unusable] = {}
    others: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, _KINDS):
            title = name if isinstance(name, str) else f"key {str(name)[:40]}"
            add_entry(path, tensors, title, value if title == name else Unusable("a tensor without a name"))
        elif isinstance(name, str) and name and len(name) <= MAX_NAME_BYTES and name.isprintable():
            others[name] = _shown(value)
    empty = sum(isinstance(tensor, Tensor) and tensor.is_empty for tensor in tensors.values())
    refuse_parts(path, empty, len(tensors))
    return StateDict(tensors, others)


def _choose(path: Path, root: object) -> dict[Any, object]:
    candidates = list(_dictionaries_of_tensors(root))
    models = [(key, value) for key, value in candidates if _has_layers(value)] or candidates
    if not models:
        raise FormatError(
            f"{path}: expected a dictionary of tensors, or one within {_LEVELS} levels of dictionaries, "
            f"got {_shown(root)}; save the weights alone, as torch.save(model.state_dict(), path) does"
        )
    if len(models) > 1:
        shown = [f"{key} ({_count(value)})" for key, value in models[:_SHOWN_DICTIONARIES]]
        more = f" and {len(models) - len(shown)} more" if len(models) > len(shown) else ""
        raise UnsupportedError(
            f"{path}: expected one dictionary of tensors, got {', '.join(shown)}{more}; "
            "save the one that is the model, as torch.save(checkpoint[key], path) does"
        )
    return models[0][1]


def _dictionaries_of_tensors(root: object) -> Iterator[tuple[str, dict[Any, object]]]:
    """Yield each dictionary that has a tensor under a name, once, with its keys as an index expression."""
    level: list[tuple[str, object]] = [("checkpoint", root)]
    seen: set[int] = set()
    for _ in range(_LEVELS + 1):
        inner: list[tuple[str, object]] = []
        for where, value in level:
            if type(value) is not dict or id(value) in seen:
                continue
            seen.add(id(value))
            if any(isinstance(item, _KINDS) and isinstance(name, str) for name, item in value.items()):
                yield where, value
            inner += [(f"{where}[{_key(name)}]", item) for name, item in value.items() if type(item) is dict]
        level = inner


def _key(name: object) -> str:
    return repr(name[:40]) if isinstance(name, str) else str(name)[:40]


def _count(tensors: Mapping[Any, object]) -> str:
    count = sum(isinstance(value, _KINDS) for value in tensors.values())
    return f"{count} tensor{'s' * (count != 1)}"


def _has_layers(tensors: Mapping[Any, object]) -> bool:
    return any(
        isinstance(value, _KINDS)
        and isinstance(name, str)
        and len(name) <= MAX_NAME_BYTES
        and _OF_A_LAYER.fullmatch(name)
        for name, value in tensors.items()
    )


def _shown(value: object) -> str:
    # Never repr() of a container: its items may be shared so often that printing them takes forever.
    if isinstance(value, str):
        return value[:_SHOWN_BYTES] if value[:_SHOWN_BYTES].isprintable() else repr(value[:_SHOWN_BYTES])
    return str(value)[:_SHOWN_BYTES] if isinstance(value, int | float | None) else f"({type(value).__name__})"
