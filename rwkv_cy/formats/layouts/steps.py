"""Reversible steps between a tensor as the original checkpoints have it and as another project stores it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from rwkv_cy.errors import FormatError
from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "DOUBLE_EXPONENTIAL",
    "LOGARITHM",
    "NEGATED_EXPONENTIAL",
    "ONE_COLUMN",
    "TRANSPOSED",
    "Operation",
    "Step",
    "columns",
    "divided",
    "heads",
    "merged",
    "per_head",
    "regrouped",
    "repeated",
    "vector",
]

Array: TypeAlias = "npt.NDArray[Any]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
Shape = tuple[int, ...]


class Operation(ABC):
    """One direction of a step.

    Attributes
    ----------
    reorders : bool
        The elements change their order, so that a part of the result needs the whole tensor.
    computes : bool
        The elements change their values: they are given as float64, and are stored as float32 at least.
    """

    reorders: ClassVar[bool] = False
    computes: ClassVar[bool] = False

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result for a tensor of this shape: the same, if it is not overridden."""
        return shape

    @abstractmethod
    def run(self, array: Array, where: str) -> Array:
        """Return the result for an array; `where` names file and tensor in errors."""


@dataclass(frozen=True)
class Step:
    """One change of a tensor, and its inverse.

    Attributes
    ----------
    apply : Operation
        From the original checkpoint to the other project's tensor.
    undo : Operation
        Back.
    """

    apply: Operation
    undo: Operation


@dataclass(frozen=True)
class Axes(Operation):
    """Gives a vector so many axes, all but the last of length 1; any other tensor stays as it is."""

    count: int

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        size = math.prod(shape)
        return (1,) * (self.count - 1) + (size,) if shape and shape[-1] == size else shape

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Heads(Operation):
    """Gives a vector two axes, the second of so many channels; any other tensor stays as it is."""

    size: int

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return (shape[0] // self.size, self.size) if len(shape) == 1 and shape[0] % self.size == 0 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Flatten(Operation):
    """Gives any tensor so many axes, all but the last of length 1."""

    count: int = 1

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return (1,) * (self.count - 1) + (math.prod(shape),)

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class OneColumn(Operation):
    """Makes a vector of a matrix of one column; any other tensor stays as it is."""

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class SwapAxes(Operation):
    """Swaps the last two axes; a tensor of fewer stays as it is."""

    reorders = True

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return a view of the array."""
        return array.swapaxes(-1, -2) if array.ndim > 1 else array


@dataclass(frozen=True)
class Groups(Operation):
    """Takes equal groups along the first axis in another order; a tensor that cannot be divided stays as it is."""

    order: tuple[int, ...]
    reorders = True

    def run(self, array: Array, where: str) -> Array:
        """Return the array with its groups in the new order."""
        count = len(self.order)
        if array.ndim == 0 or array.shape[0] % count:
            return array
        groups = array.reshape(count, array.shape[0] // count, *array.shape[1:])
        return groups[list(self.order)].reshape(array.shape)


@dataclass(frozen=True)
class MergeAxes(Operation):
    """Makes one axis of the first two of a tensor of three axes; any other stays as it is."""

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return (shape[0] * shape[1], shape[2]) if len(shape) == 3 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class SplitAxis(Operation):
    """Divides the first of two axes into so many groups; a tensor that cannot be divided stays as it is."""

    count: int

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        if len(shape) != 2 or shape[0] % self.count:
            return shape
        return (self.count, shape[0] // self.count, shape[1])

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Repeat(Operation):
    """Makes of a vector a matrix of so many equal columns; any other tensor stays as it is."""

    count: int
    reorders = True

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return (*shape, self.count) if len(shape) == 1 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return a view of the array."""
        return np.broadcast_to(array[:, None], self.shape(array.shape)) if array.ndim == 1 else array


@dataclass(frozen=True)
class FirstColumn(Operation):
    """Takes the first column of a matrix; any other tensor stays as it is."""

    reorders = True

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return shape[:1] if len(shape) == 2 else shape

    def run(self, array: Array, where: str) -> Array:
        """Return a view of the array."""
        return array[:, 0] if array.ndim == 2 else array


@dataclass(frozen=True)
class AppendAxes(Operation):
    """Gives a tensor so many axes, the new ones last and of length 1; one of more axes stays as it is."""

    count: int

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        return shape + (1,) * (self.count - len(shape))

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class DropAxes(Operation):
    """Takes off axes of length 1 at the end, but never the first axis."""

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class SplitHeads(Operation):
    """Divides a vector of any axes into heads of `size`: (heads, size, 1); one that cannot be stays as it is."""

    size: int

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result."""
        count = math.prod(shape)
        return shape if count % self.size else (count // self.size, self.size, 1)

    def run(self, array: Array, where: str) -> Array:
        """Return the array in its new shape."""
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Formula(Operation):
    """Replaces each number x by ``function(x)``.

    Attributes
    ----------
    function : callable
        Of an array of float64.
    domain : str
        What the numbers must be, for errors.
    outside : callable
        Tells which numbers are outside of the domain; NaN is never.
    """

    function: Callable[[Floats], Floats]
    domain: str = ""
    outside: Callable[[Floats], npt.NDArray[np.bool_]] | None = None
    computes = True

    def run(self, array: Array, where: str) -> Array:
        """Return the results as float64; infinities and NaN are results too.

        Raises
        ------
        FormatError
            If a number is outside of the domain.
        """
        if self.outside is not None and (outside := self.outside(array)).any():
            raise FormatError(f"{where}: expected {self.domain}, got {array[outside].max()}; the file is damaged")
        with np.errstate(all="ignore"):
            return self.function(array)


def vector(original: int, other: int) -> Step:
    """Return the step of a vector that has `original` axes in the original checkpoints and `other` elsewhere."""
    return Step(Axes(other), Axes(original))


def merged(count: int) -> Step:
    """Return the step of a tensor of three axes, the first of length `count`, whose first two are one elsewhere."""
    return Step(MergeAxes(), SplitAxis(count))


def regrouped(ours: str, theirs: str) -> Step:
    """Return the step of groups along the first axis, named by letters, that stand in another order elsewhere."""
    return Step(Groups(tuple(map(ours.index, theirs))), Groups(tuple(map(theirs.index, ours))))


def repeated(count: int) -> Step:
    """Return the step of a vector that is a matrix of `count` equal columns elsewhere."""
    return Step(Repeat(count), FirstColumn())


def heads(size: int) -> Step:
    """Return the step of a matrix (heads, size) that is a vector elsewhere."""
    return Step(Flatten(), Heads(size))


def divided(power: int) -> Step:
    """Return the step of a tensor that is divided by a power of two elsewhere."""
    # Beyond 2 ** 2098 every number is 0 or infinite.
    power = min(power, 2098)
    return Step(Formula(lambda x: np.ldexp(x, -power)), Formula(lambda x: np.ldexp(x, power)))


def columns(count: int) -> Step:
    """Return the step of a tensor that has `count` axes elsewhere, those at the end of length 1."""
    return Step(AppendAxes(count), DropAxes())


def per_head(size: int, original: int) -> Step:
    """Return the step of a vector of `original` axes that is divided into heads of `size` elsewhere."""
    return Step(SplitHeads(size), Flatten(original))


#: A matrix stored the other way round.
TRANSPOSED = Step(SwapAxes(), SwapAxes())

#: A decay w = exp(-exp(x)) stored in place of its parameter x. Rounded to 1 and to 0, it comes from a finite x.
DOUBLE_EXPONENTIAL = Step(
    Formula(lambda x: np.exp(-np.exp(x))),
    Formula(
        lambda w: np.log(np.clip(-np.log(w), 1e-13, 110)),
        "exp(-exp(time_decay)), from 0 to 1",
        lambda w: (w < 0) | (w > 1),
    ),
)

#: A decay w = -exp(x) stored in place of its parameter x.
NEGATED_EXPONENTIAL = Step(
    Formula(lambda x: -np.exp(x)),
    Formula(lambda w: np.log(-w), "-exp(time_decay), which is below 0", lambda w: w >= 0),
)

#: A logarithm x = log(u) stored in place of u.
LOGARITHM = Step(
    Formula(lambda u: np.log(u), "a bonus above 0", lambda u: u <= 0),
    Formula(lambda u: np.exp(u)),
)

#: A vector that may be a matrix of one column elsewhere.
ONE_COLUMN = Step(OneColumn(), OneColumn())
