"""Limits, and checks of names and shapes, that all readers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.reading import FileBytes, os_errors

__all__ = [
    "MAX_DIMENSIONS",
    "MAX_ELEMENTS",
    "MAX_HEADER_BYTES",
    "MAX_NAME_BYTES",
    "MAX_TENSORS",
    "FileBytes",
    "add_checked_entry",
    "add_entry",
    "check_name",
    "check_shape",
    "decode_name",
    "os_errors",
    "refuse_parts",
]

#: The largest RWKV checkpoints have about 2,000 tensors.
MAX_TENSORS = 100_000
#: Largest description of tensors (a pickle, a JSON header) that is read into memory.
MAX_HEADER_BYTES = 64 << 20
#: Longest name of a tensor, in UTF-8.
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 8
#: Elements of one tensor; products stay far from 2**63, whatever the item size.
MAX_ELEMENTS = 1 << 48

#: Parts of a path that are not names of files.
_NO_FILES = {"", ".", ".."}

Entry = TypeVar("Entry")


def check_name(path: Path, name: object, of: str = "a tensor") -> str:
    """Return the name `of` something after checking that it can be displayed, stored and looked up.

    Raises
    ------
    FormatError
        If it is not a string, empty, longer than MAX_NAME_BYTES, unprintable (NUL, controls, lone surrogates), or like
        a path that leads elsewhere.
    """
    if not isinstance(name, str):
        raise FormatError(f"{path}: expected {of}'s name as text, got {type(name).__name__}; the file is damaged")
    problem = None
    if not name:
        problem = "is empty"
    elif len(name) > MAX_NAME_BYTES or (not name.isascii() and len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES):
        problem = f"is longer than {MAX_NAME_BYTES} bytes"
    elif not name.isprintable():
        problem = "has characters that cannot be printed"
    elif ("/" in name and not _NO_FILES.isdisjoint(name.split("/"))) or name in _NO_FILES:
        problem = "looks like a path"
    if problem is not None:
        raise FormatError(f"{path}: expected the name of {of}, got {name[:40]!r}, which {problem}")
    return name


def decode_name(path: Path, raw: bytes, of: str = "a tensor") -> str:
    """Return the UTF-8 name `raw` as text; raise FormatError if it is invalid or :func:`check_name` refuses it."""
    if len(raw) > MAX_NAME_BYTES:
        raise FormatError(
            f"{path}: expected the name of {of}, got {raw[:40]!r}, which is longer than {MAX_NAME_BYTES} bytes"
        )
    try:
        return check_name(path, raw.decode("utf-8"), of)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected {of}'s name in UTF-8, got {raw[:40]!r}") from error


def refuse_parts(path: Path, empty: int, tensors: int) -> None:
    """Raise UnsupportedError where most of so many tensors are empty: a part of a checkpoint, and not a model."""
    if empty > 1 and 2 * empty > tensors:
        raise UnsupportedError(
            f"{path}: expected a whole model, got {empty} empty tensors of {tensors}, as in one rank's part of a "
            "DeepSpeed ZeRO-3 checkpoint; run zero_to_fp32.py, which DeepSpeed puts beside it, and name the result"
        )


def check_shape(path: Path, name: str, shape: Sequence[object], least: int = 1) -> tuple[int, ...]:
    """Return the shape of tensor `name` after checking its dimensions.

    Raises
    ------
    FormatError
        If there are more than MAX_DIMENSIONS, one is not an integer from `least` up, or their product is above
        MAX_ELEMENTS.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{path}: {name}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    sizes: tuple[Any, ...] = tuple(shape)
    for size in sizes:
        if type(size) is not int or not least <= size <= MAX_ELEMENTS:  # true and false are integers to isinstance
            shown = size if isinstance(size, int) else type(size).__name__
            raise FormatError(f"{path}: {name}: expected dimensions from {least} to 2**48, got {shown}")
    if math.prod(sizes) > MAX_ELEMENTS:
        raise FormatError(f"{path}: {name}: expected at most 2**48 elements, got shape {sizes}")
    return sizes


def add_entry(path: Path, table: dict[str, Entry], name: object, entry: Entry) -> None:
    """Add a tensor to a reader's table under a checked name.

    Raises
    ------
    FormatError
        If the name is invalid or a duplicate, or the table is full (MAX_TENSORS).
    """
    add_checked_entry(path, table, check_name(path, name), entry)


def add_checked_entry(path: Path, table: dict[str, Entry], name: str, entry: Entry) -> None:
    """Add a tensor whose name :func:`check_name` or :func:`decode_name` returned; otherwise as :func:`add_entry`."""
    if name in table:
        raise FormatError(f"{path}: {name}: expected one tensor of that name, got two; the file is damaged")
    if len(table) >= MAX_TENSORS:
        raise FormatError(f"{path}: expected at most {MAX_TENSORS} tensors, got more; this is not an RWKV model")
    table[name] = entry
