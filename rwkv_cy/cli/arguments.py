"""Values of command line options: checked as they are parsed, so that a bad one is an error of usage."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["ACTIVATIONS", "DTYPES", "PACKED_DTYPE", "QUANTIZED_DTYPES", "common_options", "integer", "real"]

#: The names in rwkv_cy.dtypes (STORAGE_TYPES, PACKED, QUANTIZED_TYPES, ACTIVATION_TYPES), which needs NumPy.
DTYPES = ("f64", "f32", "f16", "bf16")
PACKED_DTYPE = "bf12"
QUANTIZED_DTYPES = ("q8", "q6", "q4")
ACTIVATIONS = ("f32", "bf16")


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            limit = f"from {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected a whole number {limit}, got {text!r}")
        return value

    return parse


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`, infinity and NaN excluded."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            limit = f"from {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"expected a number {limit}, got {text!r}")
        return value

    return parse


def common_options() -> argparse.ArgumentParser:
    """Return the options that the command and every subcommand have."""
    parser = argparse.ArgumentParser(add_help=False)
    # Suppressed, so that a subcommand without the option leaves the one before it as it was.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser
