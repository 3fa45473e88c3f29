"""Sizes for people: numbers of bytes and of parameters with a unit."""

from __future__ import annotations

__all__ = ["byte_size", "duration", "exact_bytes", "short_count"]

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def byte_size(count: int) -> str:
    """Return a number of bytes with three digits and a decimal unit (``"2.73 MB"``)."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def exact_bytes(count: int) -> str:
    """Return a number of bytes with all digits, and from 1 MB on also with a unit (``"2731579 bytes (2.73 MB)"``)."""
    return f"{count} bytes" + (f" ({byte_size(count)})" if count >= 1_000_000 else "")


def short_count(count: int) -> str:
    """Return a number of parameters as people name a model of that size (``"169M"``, ``"1.5B"``, ``"13.3B"``)."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.1f}B" if name == "B" else f"{count / unit:.3g}{name}"
    return str(count)


def duration(seconds: float) -> str:
    """Return a time with its two largest units (``"45 s"``, ``"12 min 5 s"``, ``"3 h 20 min"``)."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
