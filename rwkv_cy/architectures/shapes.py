"""Dimensions from the names and shapes of a file's tensors; errors name the tensor."""

from __future__ import annotations

from rwkv_cy.architectures.base import Shapes
from rwkv_cy.errors import SpecError

__all__ = ["count_layers", "dimension"]

_BLOCKS = "blocks."
#: Digits of the number of a layer, at most.
_MOST_DIGITS = 6


def dimension(shapes: Shapes, name: str, axis: int, where: str) -> int:
    """Return the length of one axis of the matrix `name`.

    Raises
    ------
    SpecError
        If the tensor is missing, is not a matrix, or the axis is empty.
    """
    shape = shapes.get(name)
    if shape is None:
        raise SpecError(f"{where}: {name}: expected this parameter, found none; is this a whole model?")
    if len(shape) != 2 or min(shape) < 1:
        raise SpecError(f"{where}: {name}: expected a matrix that is not empty, got shape {tuple(shape)}")
    return shape[axis]


def count_layers(shapes: Shapes, where: str) -> int:
    """Return the number of layers.

    Raises
    ------
    SpecError
        If there are none, or the numbering has a gap.
    """
    start = len(_BLOCKS)
    begins = {name[: name.find(".", start) + 1] for name in shapes if name.startswith(_BLOCKS)}
    found = {int(number) for begin in begins if _is_number(number := begin[start:-1])}
    if not found:
        raise SpecError(f"{where}: expected parameters of layers (blocks.0. ...), found none; is this a whole model?")
    missing = next(i for i in range(len(found) + 1) if i not in found)
    if missing < len(found):
        raise SpecError(
            f"{where}: expected layers 0 to {max(found)} without a gap, found none of blocks.{missing}.; "
            "the file is incomplete"
        )
    return len(found)


def _is_number(text: str) -> bool:
    """Tell whether a text is the number of a layer: digits, without zeros in front."""
    plain = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return plain and (text == "0" or text[0] != "0")
