"""Options of ``generate`` that restrict the text to a grammar."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.standard_input import name_of, read_text
from rwkv_cy.errors import FormatError, GenerationError

if TYPE_CHECKING:
    from rwkv_cy.text import Grammar

__all__ = ["GRAMMAR_OPTIONS", "add_grammar_options", "given_grammar", "grammar_errors"]

#: Attributes of the options.
GRAMMAR_OPTIONS = ("json_schema", "regex", "grammar")


def add_grammar_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`given_grammar` reads."""
    group = parser.add_argument_group("grammars", "which texts may follow the prompt; explained in docs/grammars.md")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON that fits the JSON schema in FILE")
    one.add_argument("--regex", metavar="PATTERN", help="texts that match a regular expression as a whole")
    one.add_argument("--grammar", type=Path, metavar="FILE", help="rules in the syntax of Lark or GBNF")


def given_grammar(arguments: argparse.Namespace) -> Grammar | None:
    """Return the grammar of the options, or None.

    Raises
    ------
    GenerationError
        If it is not a grammar.
    FormatError
        If a file is not text in UTF-8.
    StorageError
        If it cannot be read.
    """
    path = arguments.json_schema or arguments.grammar
    if path is None and arguments.regex is None:
        return None
    from rwkv_cy.text import Grammar

    if path is None:
        return Grammar("regex", arguments.regex)
    name, data = read_text(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: expected UTF-8, got another byte at {error.start}") from None
    kind = "gbnf" if "::=" in text else "lark"
    with grammar_errors(arguments):
        return Grammar("json_schema" if arguments.json_schema is not None else kind, text)


@contextmanager
def grammar_errors(arguments: argparse.Namespace) -> Iterator[None]:
    """Name the file, or the option, in errors of a grammar, which begin with its kind."""
    try:
        yield
    except GenerationError as error:
        from rwkv_cy.text.grammars import GRAMMAR_KINDS

        if not str(error).startswith(tuple(f"{kind}: " for kind in GRAMMAR_KINDS)):
            raise
        path = arguments.json_schema or arguments.grammar
        raise GenerationError(f"--{error}" if path is None else f"{name_of(path)}: {error}") from None
