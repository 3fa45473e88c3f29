"""Values of command line options: checked as they are parsed, so that a bad one is an error of usage."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rwkv_cy.runtime import MEMORY_KINDS

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "DTYPES",
    "PACKED_DTYPE",
    "QUANTIZED_DTYPES",
    "add_activations",
    "add_load_dtype",
    "add_memory_option",
    "common_options",
    "integer",
    "real",
]

#: The names in rwkv_cy.dtypes.STORAGE_TYPES, PACKED and QUANTIZED_TYPES, which stand beside NumPy's types there.
DTYPES = ("f64", "f32", "f16", "bf16")
PACKED_DTYPE = "bf12"
QUANTIZED_DTYPES = ("q8", "q4")
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


def add_activations(parser: argparse.ArgumentParser) -> None:
    """Add the option of the commands that run a model."""
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="f32",
        help="bf16 rounds what matrices in bf16 are multiplied with: faster on CPUs with AVX512-BF16 (default: f32)",
    )


def add_load_dtype(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, as :func:`rwkv_cy.load` has it."""
    parser.add_argument(
        "--dtype",
        choices=[*DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES],
        help="load the matrices in this type (default: as they are stored)",
    )


def common_options() -> argparse.ArgumentParser:
    """Return the options that the command and every subcommand have."""
    parser = argparse.ArgumentParser(add_help=False)
    # Suppressed, so that a subcommand without the option leaves the one before it as it was.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--memory``, as :func:`rwkv_cy.load` has it."""
    parser.add_argument(
        "--memory",
        choices=MEMORY_KINDS,
        default="map",
        help="use the weights where they lie in the file, or read them into memory first (default: map)",
    )
