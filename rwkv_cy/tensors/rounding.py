"""The error that rounding makes: measured between numbers and what is stored of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import widen
from rwkv_cy.records import dataclass

__all__ = ["Rounding", "describe_rounding", "measure_rounding"]


@dataclass(frozen=True)
class Rounding:
    """Sums over numbers that were rounded; those that are not finite, before or after, are left out.

    Attributes
    ----------
    largest : float
        Largest absolute error.
    squared_error : float
        Sum of the squares of the errors.
    squares : float
        Sum of the squares of the numbers.
    """

    largest: float = 0.0
    squared_error: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            max(self.largest, other.largest),
            self.squared_error + other.squared_error,
            self.squares + other.squares,
        )

    @property
    def relative(self) -> float:
        """Root of the mean square of the errors, relative to that of the numbers."""
        return math.sqrt(self.squared_error / self.squares) if self.squares else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the largest and the relative error, ready for JSON."""
        return {"largest": self.largest, "relative": self.relative}


def measure_rounding(numbers: npt.NDArray[Any], dtype: str, rounded: npt.NDArray[Any], stored: str) -> Rounding:
    """Compare numbers stored as `dtype` with what `stored` keeps of them.

    Parameters
    ----------
    numbers, rounded : numpy.ndarray
        Of the same size, of the array types of the storage types `dtype` and `stored`.
    """
    wide = "f64" if dtype == "f64" else "f32"
    before = widen(numbers, dtype, wide).reshape(-1)
    with np.errstate(all="ignore"):
        error = widen(rounded, stored, wide).reshape(-1) - before
        if not np.isfinite(error).all():
            finite = np.isfinite(error)
            error, before = error[finite], before[finite]
    if not error.size:
        return Rounding()
    # np.dot sums in the precision of the numbers: blocks keep the sums short.
    return Rounding(float(np.abs(error).max()), float(np.dot(error, error)), float(np.dot(before, before)))


def describe_rounding(rounding: Mapping[str, Rounding], tensors: int, computed: int = 0) -> str:
    """Return in words how exact a file is.

    Parameters
    ----------
    rounding : mapping of str to Rounding
        Errors of the tensors that were rounded.
    tensors : int
        Tensors in all.
    computed : int
        Those whose numbers another layout computes from the source, so that reading them back rounds.
    """
    if not rounding:
        return "every number as in the source" + (f", except {computed} computed tensors" if computed else "")
    total = sum(rounding.values(), Rounding())
    return (
        f"{len(rounding)} of {tensors} tensors rounded: relative error {total.relative:.2e} (RMS), "
        f"largest {total.largest:.2e}"
    )
