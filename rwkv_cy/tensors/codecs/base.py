"""The interface of codecs, which encode numbers of one storage type to an array and decode them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    import numpy.typing as npt

    from rwkv_cy.tensors.feedback import Inputs

__all__ = ["Array", "Codec", "GroupedCodec", "Plan", "PlannedCodec", "ReadRows", "StoredArray", "rows_at_once"]

Array: TypeAlias = "npt.NDArray[Any]"
#: ``read(start, count)`` returns elements ``start .. start + count`` of a stored array, 1-D.
ReadArray = Callable[[int, int], Array]
#: ``rows(first, count)`` returns rows of a matrix as numbers, shape (count, columns).
ReadRows = Callable[[int, int], Array]

#: Numbers that are decoded, converted or encoded at a time: 1 MiB of float32, which fits in the caches.
BLOCK_SIZE = 1 << 18


@dataclass(frozen=True)
class StoredArray:
    """The array that stores a tensor, and how to read it.

    Attributes
    ----------
    where : str
        File and tensor, for messages.
    shape : tuple of int
        Shape of the tensor, or of its transpose if that is what the array stores.
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
    """What a codec must know about all numbers of a matrix before it encodes the first one.

    Attributes
    ----------
    nbytes : int
        Bytes of the array.
    working_bytes : int
        Memory that is allocated from the first row to the last.
    """

    nbytes: int
    working_bytes: int


class Codec(ABC):
    """One storage type: the shape of stored arrays, decoding, checks.

    Floating point types are stored without encoding; :class:`GroupedCodec` and :class:`PlannedCodec` encode the other
    types.

    Attributes
    ----------
    name : str
        Name of the storage type.
    numbers : str
        Storage type of the decoded numbers: ``"f32"`` for a quantized matrix.
    itemsize : int
        Bytes of an element of the stored array.
    matrices_only : bool
        Whether it stores matrices only. Its arrays then have another shape than the matrix.
    row_group : int
        Rows that are decoded together; reads consist of whole groups.
    alignment : int
        Alignment in bytes that an array needs to be used in place.
    plain_types : tuple of str
        Types of the tensors in a model of this storage type that it cannot store. Such a tensor keeps its type if that
        is one of these; otherwise it gets the first one.
    requantizes : bool
        Whether encoding numbers that were quantized before adds a second rounding error.
    factor_type : str or None
        Type of the low-rank factors in a model of this storage type; None keeps that of the checkpoint.
    since : int
        Minor version of the model file that introduced it.
    """

    name: str
    numbers: str
    itemsize: int = 1
    matrices_only: bool = True
    row_group: int = 1
    alignment: int = 1
    plain_types: tuple[str, ...] = ()
    requantizes: bool = False
    factor_type: str | None = None
    since: int = 0

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Type of the stored array: bytes, if this is not overridden."""
        return np.dtype(np.uint8)

    @abstractmethod
    def array_shape(self, shape: tuple[int, ...], nbytes: int = 0) -> tuple[int, ...]:
        """Return the shape of the array that stores a tensor.

        Parameters
        ----------
        shape : tuple of int
            Shape of the tensor.
        nbytes : int
            Bytes of the array; used only if they depend on the numbers.
        """

    def shape_problem(self, array_shape: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
        """Describe expected and actual shape if an array of `array_shape` cannot store a tensor of `shape`."""
        expected = self.array_shape(shape)
        if array_shape == expected:
            return None
        return f"an array {expected} for {self.name} of shape {str(shape)[:80]}, got {array_shape}"

    def group_size(self, shape: tuple[int, ...]) -> int:
        """Return the number of array elements that store a group of rows; such parts are independent."""
        return 1

    @abstractmethod
    def decode_rows(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read rows of a matrix and decode them.

        Parameters
        ----------
        stored : StoredArray
        first, count : int
            Rows to read: from the start of a group to the end of a group or of the matrix.

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
        """Raise FormatError unless the offsets and counts within the array are valid; reads only those."""
        return


class GroupedCodec(Codec):
    """A codec that encodes groups of rows independently."""

    #: Whether it searches for scales, so that the inputs of a matrix make a difference.
    searches = False

    @abstractmethod
    def decode_columns(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read columns of a matrix and decode them.

        Parameters
        ----------
        stored : StoredArray
        first, count : int
            Any columns to read. It takes memory for them and for a group of rows.

        Returns
        -------
        numpy.ndarray
            Shape (count, rows), of the storage type ``numbers``: each column is a row of the result.
        """

    @abstractmethod
    def encode_rows(self, numbers: Array, where: str, inputs: Inputs | None = None) -> Array:
        """Encode whole groups of rows.

        Parameters
        ----------
        numbers : numpy.ndarray
            Shape (rows, columns), of the storage type ``numbers``.
        where : str
            File and tensor, for messages.
        inputs : Inputs, optional
            What the matrix is multiplied with, for a codec that `searches`.

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
    """A codec that examines all numbers before it encodes them from the first to the last."""

    @abstractmethod
    def plan(self, blocks: Iterable[Array], shape: tuple[int, ...]) -> Plan | None:
        """Examine all numbers of a tensor, in any order, and plan its storage; None if it should be stored plain."""

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
    """Return the rows, in whole groups and at least one group, that hold about `size` numbers."""
    return max(1, size // (row_group * columns)) * row_group
