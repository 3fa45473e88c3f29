"""Histograms of numbers whose range is not known before they are read: counted by the leading bits of float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import widen

__all__ = ["WeightHistogram"]

#: Bits that are dropped: sign, exponent and the first five bits of the mantissa remain, 32 bins an octave.
_DROPPED = 18
_BINS = 1 << (32 - _DROPPED)
#: Bins of positive numbers; bits of the sign, of infinity and of the least normal number; bins below infinity.
_POSITIVE = _BINS // 2
_SIGN, _INFINITY, _NORMAL = 0x8000_0000, 0x7F80_0000, 0x0080_0000
_FINITE = _INFINITY >> _DROPPED


class WeightHistogram:
    """Counts of numbers by sign, exponent and the first bits of the mantissa, as float32.

    Bins are 2 % to 3 % as wide as their numbers. Any other histogram of the numbers, and their quantiles, follow from
    it within that width, so that one pass is enough. Zeros, NaN and infinities are in none of them.

    Attributes
    ----------
    zeros, subnormals, size : int
        Numbers that are zero as float32; that are not, but below 2**-126; and that are finite.
    largest : float
        The largest magnitude of a finite number; 0 if there are none.
    """

    def __init__(self) -> None:
        self.zeros = self.subnormals = self.size = 0
        self.largest = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, block: npt.NDArray[Any], dtype: str) -> None:
        """Count the numbers of a 1-D array stored as `dtype`; memory for 12 bytes a number.

        Numbers beyond the range of float32 count as infinite.
        """
        with np.errstate(over="ignore"):
            numbers = widen(block, dtype, "f32")
        bits = np.ascontiguousarray(numbers).view(np.uint32)
        magnitudes = bits & np.uint32(_SIGN - 1)
        finite = int(np.count_nonzero(magnitudes < _INFINITY))
        zeros = int(np.count_nonzero(magnitudes == 0))
        self.size += finite
        self.zeros += zeros
        self.subnormals += int(np.count_nonzero(magnitudes < _NORMAL)) - zeros
        self._count(bits >> np.uint32(_DROPPED))
        if zeros:
            negative = int(np.count_nonzero(bits == _SIGN))
            self._counts[0] -= zeros - negative
            self._counts[_POSITIVE] -= negative
        if finite < magnitudes.size:
            magnitudes = magnitudes[magnitudes < _INFINITY]
        self.largest = max(self.largest, float(magnitudes.max(initial=0).view(np.float32)))

    def _count(self, bins: npt.NDArray[np.uint32]) -> None:
        """Count numbers by their bins; the cheaper way depends on how many there are."""
        if bins.size < _BINS:
            np.add.at(self._counts, bins, 1)
        else:
            self._counts += np.bincount(bins, minlength=_BINS)

    def _cumulative(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the edges of the bins in ascending order, and how many numbers but zeros are below each."""
        magnitudes = (np.arange(_FINITE + 1, dtype=np.uint32) << np.uint32(_DROPPED)).view(np.float32)
        magnitudes[-1] = np.finfo(np.float32).max
        edges = np.concatenate([-magnitudes[:0:-1], magnitudes]).astype(np.float64)
        negative = self._counts[_POSITIVE : _POSITIVE + _FINITE][::-1]
        counts = np.concatenate([[0], negative, self._counts[:_FINITE]])
        return edges, np.cumsum(counts).astype(np.float64)

    def counts(self, edges: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return how many numbers but zeros are between each edge and the next, interpolated within bins.

        Parameters
        ----------
        edges : sequence of float
            Ascending.

        Returns
        -------
        numpy.ndarray
            One shorter than `edges`.
        """
        return np.diff(np.interp(np.asarray(edges, np.float64), *self._cumulative()))

    def reach(self, share: float) -> float:
        """Return a magnitude that `share` of all finite numbers do not exceed: the edge of a bin, or the largest."""
        magnitudes = (np.arange(1, _FINITE + 1, dtype=np.uint32) << np.uint32(_DROPPED)).view(np.float32)
        both = self._counts[:_FINITE] + self._counts[_POSITIVE : _POSITIVE + _FINITE]
        below = self.zeros + np.cumsum(both)
        index = min(int(np.searchsorted(below, share * self.size)), _FINITE - 1)
        return min(float(magnitudes[index]), self.largest)
