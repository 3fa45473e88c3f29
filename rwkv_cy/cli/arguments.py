"""Values of command-line options: checked as they are parsed, so that a bad one is a usage error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "PACKED_DTYPE",
    "QUANTIZED_DTYPES",
    "common_options",
    "dtype_name",
    "integer",
    "real",
]

#: The names in rwkv_cy.dtypes (STORAGE_TYPES, PACKED, QUANTIZED_TYPES, ACTIVATION_TYPES), which needs NumPy.
DTYPES = ("f64", "f32", "f16", "bf16")
PACKED_DTYPE = "bf12"
QUANTIZED_DTYPES = ("q8", "q6", "q4")
ACTIVATIONS = ("f32", "bf16")

#: Other names of our types, in lower case.
_ALIASES = {
    **dict.fromkeys(("fp64", "float64", "double"), "f64"),
    **dict.fromkeys(("fp32", "float32", "float"), "f32"),
    **dict.fromkeys(("fp16", "float16", "half"), "f16"),
    **dict.fromkeys(("bfloat16", "bfp16"), "bf16"),
}
#: Prefixes of other programs' types, in lower case, and the type here with about as many bits.
_NEAREST = {
    **dict.fromkeys(("q8", "int8", "i8", "uint8", "8bit"), "q8"),
    **dict.fromkeys(("q6", "q5", "int6", "int5"), "q6"),
    **dict.fromkeys(("q4", "q3", "int4", "i4", "nf4", "fp4", "4bit"), "q4"),
    **dict.fromkeys(("fp8", "f8", "float8"), "q8"),
}


def dtype_name(text: str) -> str:
    """Return the name of a storage type; other spellings of the same type are accepted, other types get a hint."""
    name = text.lower()
    known = (*DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES)
    if name in known:
        return name
    if name in _ALIASES:
        return _ALIASES[name]
    near = next((ours for theirs, ours in _NEAREST.items() if name.startswith(theirs)), None)
    if near is not None:
        raise argparse.ArgumentTypeError(f"{text!r} is a type of other programs; the nearest one here is {near}")
    return text


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            limit = f"from {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected an integer {limit}, got {text!r}")
        return value

    return parse


def real(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`, without Inf and NaN."""

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
    """Return the options that the command and all subcommands share."""
    parser = argparse.ArgumentParser(add_help=False)
    # Suppressed, so that a subcommand without the option keeps the value given before it.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser
