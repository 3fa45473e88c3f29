"""The argument parser: errors in two lines, with the nearest option or command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from copy import copy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from rwkv_cy.cli.arguments import DTYPES, MATRIX_DTYPES
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_error, printable
from rwkv_cy.dtype_names import canonical_name

__all__ = ["CommandParser", "nearest"]

#: What is meant by words that are not similar to what they mean; its first word is checked where it is an option.
_MEANT = {
    "--greedy": "--temperature 0",
    "--model": "MODEL, an argument without a name",
    "--version": "rwkv-cy --version",
    "version": "rwkv-cy --version",
    "chat": "generate",
    "run": "generate",
}
_SIMILARITY = 0.75


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names what `word` probably means, among the `known` words; empty where nothing is similar."""
    known = list(known)
    meant = _MEANT.get(word)
    if meant is None or (meant.split()[0] not in known and meant.split()[0].startswith("--")):
        meant = next(iter(get_close_matches(word, known, 1, _SIMILARITY)), None)
    return "" if meant is None else f"; did you mean {meant}?"


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors point to the help of the command, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find help on standard error, and exit with code 2."""
        print_error(message)
        print(f"try '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))

    #: Whether the base class parses options and positional arguments apart, and calls back for each.
    _apart = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the arguments; unlike the base class, refuse unknown ones here, where their command is known.

        Options may stand between positional arguments. Before Python 3.12, the base class then takes those that may be
        missing for missing.
        """
        if self._apart:
            return super().parse_known_args(args, namespace)
        words = sys.argv[1:] if args is None else list(args)
        before = copy(namespace)
        namespace, unknown = super().parse_known_args(words, namespace)
        if unknown and "--" not in words and not any(word.startswith("-") for word in unknown):
            namespace, unknown = self._parse_apart(words, before)
        if unknown:
            self.error(self._unknown(unknown))
        return namespace, []

    def _parse_apart(self, words: Sequence[str], namespace: Any) -> Any:
        self._apart = True
        try:
            return self.parse_known_intermixed_args(words, namespace)
        finally:
            self._apart = False

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        if action.type is Path and not text:
            raise argparse.ArgumentError(action, "expected a path, got an empty text")
        return super()._get_value(action, text)

    def _unknown(self, words: Sequence[str]) -> str:
        word = words[0]
        if word in self._option_string_actions:
            return f"unexpected argument {word!r} after --; give options before --"
        if word.startswith("-") and len(word) > 1:
            option = word.split("=")[0]
            return f"unknown option {printable(option)}{nearest(option, self._option_string_actions)}"
        if "--dtype" in self._option_string_actions and canonical_name(word) in (*DTYPES, *MATRIX_DTYPES):
            return f"unexpected argument {word!r}; did you mean --dtype {canonical_name(word)}?"
        advice = "; put quotes around text with spaces" if "--prompt" in self._option_string_actions else ""
        return f"unexpected argument {word!r}{advice}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            hint = nearest(str(value), names)
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}{hint}{';' if not hint else ''} choose from {', '.join(names)}"
            )
