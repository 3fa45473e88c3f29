"""Values of command-line options: checked as they are parsed, so that a bad one is a usage error."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.dtype_names import canonical_name, nearest_type
from rwkv_cy.errors import StorageError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "EXPORT_FORMATS",
    "EXPORT_LAYOUTS",
    "MATRIX_DTYPES",
    "PACKED_DTYPE",
    "QUANTIZED_DTYPES",
    "check_page_options",
    "common_options",
    "dtype_name",
    "integer",
    "new_file",
    "output_options",
    "page_options",
    "real",
    "size",
    "some_text",
    "type_rule",
]

#: The names in rwkv_cy.dtypes (STORAGE_TYPES, PACKED, QUANTIZED_TYPES, ACTIVATION_TYPES), which needs NumPy.
DTYPES = ("f64", "f32", "f16", "bf16")
PACKED_DTYPE = "bf12"
QUANTIZED_DTYPES = ("q8", "q6", "q4", "q4n")
MATRIX_DTYPES = (PACKED_DTYPE, *QUANTIZED_DTYPES)
ACTIVATIONS = ("f32", "bf16")
#: The keys of rwkv_cy.formats.writers.EXPORT_FORMATS, and the layouts of these formats.
EXPORT_FORMATS = ("pth", "safetensors", "st", "gguf", "rwkvcpp", "huggingface")
EXPORT_LAYOUTS = ("original", "transformers", "fla", "web-rwkv", "llama.cpp", "rwkv.cpp")
_UNITS = " KMGT"
_SIZE = r"(\d{1,15})([KMGT]?)(i?)B?"


def dtype_name(text: str) -> str:
    """Return the name of a storage type; other spellings of the same type are accepted, other types get a hint."""
    name = canonical_name(text)
    if name in (*DTYPES, *MATRIX_DTYPES):
        return name
    near = nearest_type(text)
    if near is not None:
        raise argparse.ArgumentTypeError(f"unknown type {text!r}; did you mean {near}?")
    return text


def type_rule(text: str) -> tuple[str, str]:
    """Return pattern and type of ``pattern=type``; the type is ``"keep"`` where there is none."""
    pattern, _, name = text.partition("=")
    dtype = dtype_name(name) if name else "keep"
    known = ("keep", *DTYPES, *MATRIX_DTYPES)
    if not pattern or dtype not in known:
        raise argparse.ArgumentTypeError(f"expected PATTERN=TYPE with a type of {', '.join(known)}, got {text!r}")
    return pattern, dtype


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {_integers(low, high)}, got {text!r}")
        return value

    return parse


def _integers(low: int, high: int | None) -> str:
    if high is not None:
        return f"an integer from {low} to {high}"
    return {0: "a non-negative integer", 1: "a positive integer"}.get(low, f"an integer of at least {low}")


def size(low: int) -> Callable[[str], int]:
    """Return a parser of bytes with a unit, from `low` on."""

    def parse(text: str) -> int:
        match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
        value = 0
        if match is not None and (match[2] or not match[3]):
            thousand = 1024 if match[3] else 1000
            value = int(match[1]) * thousand ** _UNITS.index(match[2].upper() or " ")
        if value < low:
            least = f" of at least {low}" if low > 1 else ""
            raise argparse.ArgumentTypeError(f"expected a size{least} as 4000000000, 700M or 2GiB, got {text!r}")
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
            raise argparse.ArgumentTypeError(f"expected {_numbers(low, high)}, got {text!r}")
        return value

    return parse


def _numbers(low: float, high: float) -> str:
    if high != math.inf:
        return f"a number from {low:g} to {high:g}"
    return "a non-negative number" if low == 0 else f"a number of at least {low:g}"


def new_file(text: str) -> Path:
    """Return the path of a file to write, as :func:`rwkv_cy.files.reading.new_file_path` does."""
    from rwkv_cy.files.reading import new_file_path

    try:
        return new_file_path(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def some_text(text: str) -> str:
    """Return a text that has at least one character."""
    if not text:
        raise argparse.ArgumentTypeError("expected at least one character, got an empty text")
    return text


def page_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that write a report as a page."""
    parser.add_argument(
        "--html", metavar="REPORT", type=new_file, help="write a page with pictures of all numbers, as report.html"
    )
    parser.add_argument("--force", action="store_true", help="let --html replace an older report")
    parser.set_defaults(parser=parser)


def check_page_options(arguments: argparse.Namespace) -> None:
    """End with a usage error if an option of the page comes without it."""
    if arguments.force and arguments.html is None:
        arguments.parser.error("--force replaces the report that --html writes; name it, as --html report.html")


def common_options() -> argparse.ArgumentParser:
    """Return the options that the command and all subcommands share."""
    # It prints nothing: a width of its own keeps it from asking for the terminal's.
    parser = argparse.ArgumentParser(add_help=False, formatter_class=partial(argparse.HelpFormatter, width=80))
    # Suppressed, so that a subcommand without the option keeps the value given before it.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print no warnings, no progress bar, and no report on what was done: errors and results only",
    )
    return parser


def output_options(parser: argparse.ArgumentParser, *, progress: bool = True, json: str = "print JSON") -> None:
    """Add ``--no-progress``, for commands that may take long, and ``--json``, explained by a text."""
    if progress:
        parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help=json)
