"""Numbers as a reader wants them: short, with signs and units; and scales with their ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rwkv_cy.records import dataclass

__all__ = ["Scale", "count", "nice_ticks", "number", "percent", "plural", "power_of_ten", "shape_text"]

_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3, *, fixed: bool = False) -> str:
    """Return a number with so many significant digits; powers of ten where it is very large or small.

    With `fixed`, zeros at the end are kept, as in a column of a table.
    """
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:#.{digits}g}".rstrip(".") if fixed and value else f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    if exponent and 0 < int(exponent) < (4 if mantissa == "1" else 6):
        text = f"{float(text):,.0f}"
    elif exponent:
        mantissa = mantissa.rstrip(".")
        power = power_of_ten(int(exponent))
        text = power if mantissa == "1" else f"{mantissa}\N{MULTIPLICATION SIGN}{power}"
    return text.replace("-", _MINUS)


def power_of_ten(exponent: int) -> str:
    """Return a power of ten as such: ``"10"`` with a raised exponent."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}" if exponent else "1"


def count(value: int) -> str:
    """Return a count with three digits and a unit (``"2.73 M"``), or whole below 10,000."""
    if value < 10_000:
        return f"{value:,}"
    scaled, unit = float(value), ""
    for unit in ("k", "M", "B", "T"):
        scaled /= 1000
        if scaled < 999.5 or unit == "T":
            break
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {unit}"


def percent(share: float) -> str:
    """Return a share as a percentage."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.9995 else "100 %"


def plural(amount: int, noun: str) -> str:
    """Return a count with its noun: ``"1 tensor"``, ``"2 tensors"``."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape, lengths with a multiplication sign between them; ``"scalar"`` for one without lengths."""
    return " \N{MULTIPLICATION SIGN} ".join(f"{length:,}" for length in shape) or "scalar"


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, at most about so many, in steps of 1, 2 or 5 times a power of ten."""
    if not 1e-300 < high - low < math.inf:
        return [low]
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [0.0 if index == 0 else index * step for index in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """Positions in a picture of the numbers from `low` to `high`.

    Attributes
    ----------
    low, high : float
        Numbers; positive for a logarithmic scale.
    start, end : float
        Their positions.
    logarithmic : bool, default False
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a number, within the scale's ends."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        # Halves, because the difference of two numbers may overflow.
        share = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Return the numbers to label: round ones, or powers of ten."""
        if not self.logarithmic:
            return nice_ticks(self.low, self.high, most)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        step = max(1, math.ceil((last - first + 1) / most))
        return [10.0**power for power in range(first, last + 1, step)]
