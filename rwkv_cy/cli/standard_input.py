"""Texts from the command line, from files and from standard input, as bytes."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rwkv_cy.cli.output import print_warning
from rwkv_cy.errors import StorageError

__all__ = ["add_text_argument", "given_text", "name_of", "read_standard_input", "read_text"]

_STANDARD_INPUT = "-"
#: Longer texts are not looked for as files.
_LONGEST_PATH = 4096


def read_standard_input(expected: str, remedy: str) -> bytes:
    """Return all of standard input.

    Raises
    ------
    StorageError
        If it is closed; the message says what was `expected`, and the `remedy`.
    """
    if sys.stdin is None:
        raise StorageError(f"standard input: expected {expected}, got a closed stream; {remedy}")
    return sys.stdin.buffer.read()


def name_of(path: Path) -> str:
    """Return the name of a text for messages; ``-`` is standard input."""
    return "standard input" if str(path) == _STANDARD_INPUT else str(path)


def read_text(path: Path) -> tuple[str, bytes]:
    """Return the name of a text for messages, and its bytes; ``-`` is standard input.

    Raises
    ------
    StorageError
        If it cannot be read.
    FormatError
        If a file is not a text in an encoding that extends ASCII. Standard input may be anything.
    """
    from rwkv_cy.files.plain_text import HEAD_BYTES, require_text
    from rwkv_cy.files.reading import os_errors

    if str(path) == _STANDARD_INPUT:
        return name_of(path), read_standard_input("a text", "name a file")
    if " " in path.name and not os.path.lexists(path):
        raise StorageError(
            f"{path}: no such file, and this looks like a text: name a file, or write - and pass the text as standard "
            "input"
        )
    with os_errors(path, "read"), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        require_text(path, head, "name a text file after MODEL, or pass the bytes as standard input with -")
        return str(path), head + file.read()


def add_text_argument(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``TEXT`` and ``--file``, which :func:`given_text` reads.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    purpose : str
        What the text is, for the help.
    """
    parser.add_argument("text", metavar="TEXT", nargs="?", help=f"{purpose}; - reads standard input")
    parser.add_argument("-f", "--file", type=Path, metavar="FILE", help="read the text from a file instead")


def given_text(arguments: argparse.Namespace) -> tuple[str, bytes]:
    """Return the name of the text for messages, and its bytes: TEXT, standard input or the file.

    Raises
    ------
    StorageError
        If it cannot be read.
    SystemExit
        If there is neither or both of TEXT and ``--file``.
    """
    text, file = arguments.text, arguments.file
    if text is not None and file is not None:
        arguments.parser.error("two texts, TEXT and --file; leave one out")
    if file is not None:
        return read_text(file)
    if text is None:
        arguments.parser.error("TEXT is missing: the text itself, - for standard input, or --file FILE")
    if text == "-":
        return read_text(Path(text))
    if len(text) < _LONGEST_PATH and os.path.isfile(text):  # noqa: PTH113 (a text need not be a path)
        print_warning(f"{text!r} is taken as the text, and there is a file of that name; --file {text} reads it")
    return "text", os.fsencode(text)
