"""The argument parser: errors in two lines, with the nearest option or command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_error, printable

__all__ = ["CommandParser", "nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the most similar of the `known` words; empty if none is similar."""
    matches = get_close_matches(word, list(known), 1)
    return f"; did you mean {matches[0]}" if matches else ""


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors point to the help of the command, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find help on standard error, and exit with code 2."""
        print_error(message)
        print(f"try '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the arguments; unlike the base class, refuse unknown ones here, where their command is known."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return namespace, []

    def _unknown(self, words: Sequence[str]) -> str:
        word = words[0]
        if word.startswith("-") and len(word) > 1:
            option = word.split("=")[0]
            return f"unknown option {printable(option)}{nearest(option, self._option_string_actions)}"
        return f"unexpected argument {word!r}; put quotes around text with spaces"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action, f"invalid choice: {value!r}{nearest(str(value), names)}; choose from {', '.join(names)}"
            )
