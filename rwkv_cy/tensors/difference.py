"""Differences between two tensors of one shape, whatever their types: measured in one pass, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import widen
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.codecs import BLOCK_SIZE, rows_at_once
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["EXPONENTS", "Comparison", "Difference", "measure_difference"]

#: Counters of differences by their exponent as float64, which is that number less 1023; the first is of equal numbers.
EXPONENTS = 2048


@dataclass(frozen=True)
class Difference:
    """How the numbers of two tensors differ.

    NaN equals NaN, and an infinity equals itself. Where numbers differ and one of them is not finite, only
    `nonfinite` and `place` tell.

    Attributes
    ----------
    size : int
        Numbers compared.
    differing : int
        How many differ, `nonfinite` included.
    nonfinite : int
        How many differ where one is NaN or infinite, or the difference is too large for float64.
    largest : float
        Largest absolute difference.
    place : int or None
        Element of the first difference that is not finite, or else of the largest one, in C order of the canonical
        shape; None if all are equal.
    total : float
        Sum of the absolute differences.
    squared : float
        Sum of the squares of the differences.
    scale : float
        Largest absolute number of both tensors.
    squares : tuple of float
        Sum of the squares of the numbers, for each tensor.
    """

    size: int = 0
    differing: int = 0
    nonfinite: int = 0
    largest: float = 0.0
    place: int | None = None
    total: float = 0.0
    squared: float = 0.0
    scale: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)

    def __add__(self, other: Difference) -> Difference:
        """Return the difference of two parts, the second of which follows the first."""
        worse = not self.nonfinite and (other.nonfinite > 0 or other.largest > self.largest)
        place = other.place if worse else self.place
        return Difference(
            size=self.size + other.size,
            differing=self.differing + other.differing,
            nonfinite=self.nonfinite + other.nonfinite,
            largest=max(self.largest, other.largest),
            place=None if place is None else place + (self.size if worse else 0),
            total=self.total + other.total,
            squared=self.squared + other.squared,
            scale=max(self.scale, other.scale),
            squares=(self.squares[0] + other.squares[0], self.squares[1] + other.squares[1]),
        )

    @property
    def mean(self) -> float:
        """Mean absolute difference of all numbers."""
        return self.total / self.size if self.size else 0.0

    @property
    def largest_relative(self) -> float:
        """The largest difference relative to the largest number; inf if a difference is not finite."""
        return math.inf if self.nonfinite else self.largest / self.scale if self.largest else 0.0

    @property
    def relative(self) -> float:
        """Root mean square of the differences relative to that of the larger tensor; inf if one is not finite."""
        if self.nonfinite:
            return math.inf
        squares = max(self.squares)
        # Squares of numbers below 1e-162 are zero, and of those above 1e154 infinite.
        usable = self.squared > 0 and math.isfinite(squares)
        return math.sqrt(self.squared / squares) if usable else self.largest_relative


def measure_difference(
    first: npt.NDArray[Any],
    first_type: str,
    second: npt.NDArray[Any],
    second_type: str,
    exponents: npt.NDArray[np.int64] | None = None,
) -> Difference:
    """Compare two arrays of equal size.

    Parameters
    ----------
    first, second : numpy.ndarray
        1-D, of the array types of these storage types.
    first_type, second_type : str
        Floating point types.
    exponents : numpy.ndarray, optional
        EXPONENTS counters. The absolute differences are added to them; those that are not finite are not.
    """
    one, other = widen(first, first_type, "f64"), widen(second, second_type, "f64")
    with np.errstate(all="ignore"):
        difference = one - other
        np.abs(difference, out=difference)
        finite = np.isfinite(difference)
        if finite.all():
            wrong = place = None
        else:
            wrong = ~finite & ~((one == other) | (np.isnan(one) & np.isnan(other)))
            place = int(wrong.argmax()) if wrong.any() else None
            difference = np.where(finite, difference, 0.0)
            one, other = np.where(finite, one, 0.0), np.where(finite, other, 0.0)
        largest = float(difference.max(initial=0.0))
        nonfinite = 0 if wrong is None else int(np.count_nonzero(wrong))
        if exponents is not None:
            exponents += np.bincount(difference.view(np.int64) >> 52, minlength=EXPONENTS)
            exponents[0] -= nonfinite
        return Difference(
            size=difference.size,
            differing=int(np.count_nonzero(difference)) + nonfinite,
            nonfinite=nonfinite,
            largest=largest,
            place=place if place is not None else int(difference.argmax()) if largest else None,
            total=float(difference.sum()),
            squared=float(np.dot(difference, difference)),
            scale=max(_largest(one), _largest(other)),
            squares=(float(np.dot(one, one)), float(np.dot(other, other))),
        )


def _largest(numbers: npt.NDArray[Any]) -> float:
    return max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))


class Comparison:
    """Compares tensors of two sources in canonical orientation, decoded, block by block.

    Parameters
    ----------
    first, second : ParameterSource
        Left open.
    advance : callable, optional
        Called with the numbers that have just been compared.
    """

    def __init__(
        self, first: ParameterSource, second: ParameterSource, advance: Callable[[int], None] | None = None
    ) -> None:
        self._sources = first, second
        self._plain = PlainSource(first), PlainSource(second)
        self._advance = advance

    def _pairs(self, name: str) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield the numbers of a tensor of both sources, 1-D and in order; each pair is valid until the next.

        Matrices that are encoded by rows are read in whole groups of them.
        """
        infos = [source.info(name) for source in self._sources]
        size = infos[0].size
        step = BLOCK_SIZE
        if any(info.codec.matrices_only for info in infos):
            columns = infos[0].shape[1]
            step = rows_at_once(columns, max(info.codec.row_group for info in infos)) * columns
        step = min(step, size)
        buffers = [read_buffer(step, source.info(name).codec.array_dtype) for source in self._plain]
        for start in range(0, size, step):
            count = min(step, size - start)
            first, second = (buffer[:count] for buffer in buffers)
            for source, block in zip(self._plain, (first, second), strict=True):
                source.read_into(name, block, start)
            yield first, second

    def measure(self, name: str, exponents: npt.NDArray[np.int64] | None = None) -> Difference:
        """Compare a tensor that both sources have, in the same shape.

        Parameters
        ----------
        name : str
        exponents : numpy.ndarray, optional
            As for :func:`measure_difference`.

        Raises
        ------
        FormatError, StorageError
            As raised by the sources' ``read_into``.
        """
        first_type, second_type = (source.info(name).dtype for source in self._plain)
        if first_type == second_type and self._identical(name):
            size = self._plain[0].info(name).size
            self._done(size)
            if exponents is not None:
                exponents[0] += size
            return Difference(size)
        result = Difference()
        for first, second in self._pairs(name):
            result += measure_difference(first, first_type, second, second_type, exponents)
            self._done(first.size)
        return result

    def _identical(self, name: str) -> bool:
        """Tell whether all bits are the same: at the speed of memory, and decided by the first block where not."""
        return all(np.array_equal(one.view(np.uint8), other.view(np.uint8)) for one, other in self._pairs(name))

    def _done(self, count: int) -> None:
        if self._advance is not None:
            self._advance(count)
