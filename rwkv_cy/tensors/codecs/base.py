"""What a codec is: how numbers of one storage type are stored in an array, and how they are read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Codec", "GroupedCodec", "Plan", "PlannedCodec", "ReadRows", "StoredArray", "rows_at_once"]

Array = npt.NDArray[Any]
#: ``read(start, count)`` returns elements ``start .. start + count`` of a stored array, 1-D.
ReadArray = Callable[[int, int], Array]
#: ``rows(first, count)`` returns rows of a matrix as numbers, shape (count, columns).
ReadRows = Callable[[int, int], Array]

#: Numbers that are decoded, converted or encoded at a time: 1 MiB of float32, which stays in the caches.
BLOCK_SIZE = 1 << 18


@dataclass(frozen=True)
class StoredArray:
    """The array that stores a tensor, and how to read it.

    Attributes
    ----------
    where : str
        File and tensor, for messages.
    shape : tuple of int
        Shape of the tensor.
    nbytes : int
        Bytes of the array.
    read : callable
        ``read(start, count)`` returns elements of the array, 1-D.
    """

    where: str
    shape: tuple[int, ...]
    nbytes: int
    read: ReadArray


@dataclass(frozen=True)
class Plan:
    """What a codec has to know of all numbers of a matrix before it encodes the first one.

    Attributes
    ----------
    nbytes : int
        Bytes of the array.
    working_bytes : int
        Memory that is held from the first row to the last.
    """

    nbytes: int
    working_bytes: int


class Codec(ABC):
    """One storage type: the shape of stored arrays, decoding, checks.

    Numbers of floating point types are stored as they are. How other types are encoded, :class:`GroupedCodec` and
    :class:`PlannedCodec` say.

    Attributes
    ----------
    name : str
        Name of the storage type.
    numbers : str
        Storage type of the numbers that are decoded and encoded: ``"f32"`` for a quantized matrix.
    array_dtype : numpy.dtype
        Of the stored array.
    matrices_only : bool
        Whether it stores matrices only. Its arrays then have a shape of their own and are never transposed.
    row_group : int
        Rows that are decoded together: reading begins and ends with whole groups of them.
    alignment : int
        Bytes to which the address of an array has to be aligned to be used where it is stored.
    plain_types : tuple of str
        In a model of this storage type, the types of tensors that it cannot store. A tensor of one of them keeps its
        type; any other becomes the first one.
    requantizes : bool
        Whether encoding numbers that were quantized before adds a second rounding error.
    since : int
        Minor version of the model file that introduced it.
    """

    name: str
    numbers: str
    array_dtype: np.dtype[Any]
    matrices_only: bool = True
    row_group: int = 1
    alignment: int = 1
    plain_types: tuple[str, ...] = ()
    requantizes: bool = False
    since: int = 0

    @abstractmethod
    def array_shape(self, shape: tuple[int, ...], nbytes: int = 0) -> tuple[int, ...]:
        """Return the shape of the array that stores a tensor.

        Parameters
        ----------
        shape : tuple of int
            Shape of the tensor.
        nbytes : int
            Bytes of the array; used only where they depend on the numbers.
        """

    def shape_problem(self, array_shape: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
        """Say what was expected and found if an array of `array_shape` cannot store a tensor of `shape`."""
        expected = self.array_shape(shape)
        if array_shape == expected:
            return None
        return f"an array {expected} for {self.name} of shape {str(shape)[:80]}, got {array_shape}"

    def group_size(self, shape: tuple[int, ...]) -> int:
        """Return how many elements of the array store a group of rows: parts of so many are independent."""
        return 1

    @abstractmethod
    def decode_rows(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read rows of a matrix and decode them.

        Parameters
        ----------
        stored : StoredArray
        first, count : int
            Rows. `first` begins a group of rows, and the rows end with a group or with the matrix.

        Returns
        -------
        numpy.ndarray
            Shape (count, columns), of the storage type ``numbers``.

        Raises
        ------
        FormatError
            If the array cannot have been written by this codec.
        """

    def check(self, stored: StoredArray) -> None:
        """Raise FormatError unless every part of the array that tells where others are is valid; reads those only."""
        return


class GroupedCodec(Codec):
    """A codec that encodes groups of rows that do not depend on other rows."""

    @abstractmethod
    def encode_rows(self, numbers: Array, where: str) -> Array:
        """Encode whole groups of rows.

        Parameters
        ----------
        numbers : numpy.ndarray
            Shape (rows, columns), of the storage type ``numbers``.
        where : str
            File and tensor, for messages.

        Returns
        -------
        numpy.ndarray
            The part of the array that stores them, of its dtype, in C order; of any shape.

        Raises
        ------
        NumericalError
            If this type cannot represent a number.
        """


class PlannedCodec(Codec):
    """A codec that looks at all numbers before it encodes the first one, and then goes from first to last."""

    @abstractmethod
    def plan(self, blocks: Iterable[Array], shape: tuple[int, ...]) -> Plan | None:
        """Look at all numbers of a tensor, in any order, and say how it is stored; None where it should not be."""

    @abstractmethod
    def encode(self, rows: ReadRows, shape: tuple[int, ...], plan: Plan, where: str) -> Iterator[Array]:
        """Yield the array of a matrix from its first element to its last, in parts.

        Parameters
        ----------
        rows : callable
            Called for the rows from the first to the last, in whole groups.
        shape : tuple of int
            (rows, columns).
        plan : Plan
        where : str
            File and tensor, for messages.
        """


def rows_at_once(columns: int, row_group: int, size: int = BLOCK_SIZE) -> int:
    """Return how many rows hold about `size` numbers, in whole groups: one group at least."""
    return max(1, size // (row_group * columns)) * row_group
