"""The argument parser: errors in two lines, with the nearest option or command; help with examples."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rwkv_cy.cli.arguments import DTYPES, MATRIX_DTYPES, new_file
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_error, printable
from rwkv_cy.dtype_names import canonical_name
from rwkv_cy.runtime import columns_setting

__all__ = ["CommandParser", "nearest"]

#: What is meant by words that are not similar to what they mean. A hint is given where its first word is known.
_MEANT = {
    **dict.fromkeys(("--greedy", "--argmax"), "--temperature 0"),
    **dict.fromkeys(("--model", "-m"), "MODEL, an argument without a name"),
    **dict.fromkeys(("--output", "--out", "--outfile", "-o"), "TARGET, an argument without a name"),
    **dict.fromkeys(("--input", "--src", "-i"), "SOURCE, an argument without a name"),
    **dict.fromkeys(("--n-predict", "--max-new-tokens", "--max-length"), "--max-tokens"),
    **dict.fromkeys(("--outtype", "--type", "--precision"), "--dtype"),
    **dict.fromkeys(("--lr", "--rate"), "--learning-rate"),
    **dict.fromkeys(("--epochs", "--iters", "--max-steps"), "--steps, the number of updates"),
    **dict.fromkeys(("--bs", "--micro-bsz"), "--batch-size"),
    **dict.fromkeys(("--ctx", "--ctx-len", "--ctx-size", "--seq-len"), "--context"),
    "--lora-rank": "--rank",
    **dict.fromkeys(("--overwrite", "--yes", "-y", "-f"), "--force"),
    **dict.fromkeys(("--silent", "-s"), "--quiet"),
    **dict.fromkeys(("--fp16", "--half"), "--dtype f16"),
    **dict.fromkeys(("--version", "version", "-V"), "rwkv-cy --version"),
    **dict.fromkeys(("run", "complete"), "generate"),
    **dict.fromkeys(("show", "ls", "describe"), "inspect"),
    **dict.fromkeys(("check", "validate", "test"), "verify"),
    **dict.fromkeys(("compare", "cmp"), "diff"),
    **dict.fromkeys(("download", "fetch", "get"), "pull"),
    **dict.fromkeys(("ppl", "eval", "score"), "perplexity"),
    "split": "shard",
    "speed": "bench",
    "tokenise": "tokenize",
}
_SIMILARITY = 0.75
#: The beginning of the base class's message for missing arguments.
_REQUIRED = "the following arguments are required: "
#: Columns of a terminal that does not tell, and those that a help text leaves free.
_USUAL, _MARGIN = 80, 2
#: A line of a table in a help text: its first column, and the rest.
_TABLE_LINE = r"( +\S+(?: \S+)* {2,})(\S.*)"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names what `word` probably means, among the `known` words; empty where nothing is similar."""
    from difflib import get_close_matches  # which only an error needs

    known = list(known)
    meant = _MEANT.get(word)
    if meant is None or meant.split()[0].rstrip(",") not in (*known, "rwkv-cy"):
        meant = next(iter(get_close_matches(word, known, 1, _SIMILARITY)), None)
    return "" if meant is None else f"; did you mean {meant}?"


def _columns() -> int:
    """Return the columns of the terminal, or the usual number."""
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _USUAL  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return _USUAL


class HelpFormatter(argparse.HelpFormatter):
    """Wraps descriptions line by line: text as paragraphs, tables behind their first column, examples not at all."""

    def __init__(self, prog: str) -> None:
        # The base class asks for the width with another module; it makes a formatter for each argument that is added.
        super().__init__(prog, width=(columns_setting() or _columns()) - _MARGIN)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(self._fill_line(line, width, indent) for line in text.splitlines())

    def _fill_line(self, line: str, width: int, indent: str) -> str:
        import textwrap  # which only a help text needs

        row = re.fullmatch(_TABLE_LINE, line)
        if row is not None:
            first, rest = row.groups()
            return textwrap.fill(rest, width, initial_indent=first, subsequent_indent=" " * len(first))
        return line if line.startswith(" ") else textwrap.fill(line, width)


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors point to the help of the command, instead of printing its usage.

    Parameters
    ----------
    examples : sequence of str
        Command lines at the end of its help.
    stray : str
        What to say of an argument too many.
    **options
        As for the base class.

    Attributes
    ----------
    examples : tuple of str
    stray : str
    """

    _words: Sequence[str] = ()

    def __init__(self, *, examples: Sequence[str] = (), stray: str = "", **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(**options)
        self.examples, self.stray = tuple(examples), stray

    def format_help(self) -> str:
        """Return the help, with the examples."""
        return "\n".join([super().format_help(), *(("examples:",) if self.examples else ()), *self._example_lines()])

    def _example_lines(self) -> list[str]:
        return [f"  {example}" for example in self.examples] + ([""] if self.examples else [])

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find help on standard error, and exit with code 2."""
        missing = message.removeprefix(_REQUIRED)
        if missing != message:
            unknown = next(filter(self._is_unknown, self._words), None)
            positional = " ".join(str(action.metavar) for action in self._get_positional_actions())
            verb = "are" if ", " in missing else "is"
            message = self._unknown([unknown]) if unknown else f"{missing} {verb} missing: {self.prog} {positional}"
        print_error(message + self._dash_advice(message))
        print(f"try '{self.prog} --help'", file=sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))

    def _dash_advice(self, message: str) -> str:
        """Return what to do about a value that was taken for an option, since it begins with a dash."""
        named = re.fullmatch(r"argument (\S+): expected one argument", message)
        options = named[1].split("/") if named else []
        for option, value in zip(self._words, self._words[1:], strict=False):
            if option in options and value.startswith("-") and value not in self._option_string_actions:
                return f"; write a value that begins with - as {options[-1]}={value}"
        return ""

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version; unlike the base class, raise OSError if standard output does not take it."""
        if file is None or file is sys.stderr:
            super()._print_message(message, file)
        elif message:
            file.write(message)
            file.flush()

    #: Whether the base class parses options and positional arguments apart, and calls back for each.
    _apart = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse the arguments; unlike the base class, refuse unknown ones here, where their command is known.

        Options may stand between positional arguments. Before Python 3.12, the base class then takes those that may be
        missing for missing.
        """
        if self._apart:
            return super().parse_known_args(args, namespace)
        self._words = words = sys.argv[1:] if args is None else list(args)
        before = None if namespace is None else argparse.Namespace(**vars(namespace))
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
        if not text and (action.type in (Path, new_file) or str(action.metavar).split("|")[-1] == "FILE"):
            raise argparse.ArgumentError(action, "expected a path, got an empty text")
        return super()._get_value(action, text)

    def _is_unknown(self, word: str) -> bool:
        """Return whether a word looks like an option, and none begins like it."""
        option = word.split("=")[0]
        return option.startswith("--") and not any(name.startswith(option) for name in self._option_string_actions)

    def _unknown(self, words: Sequence[str]) -> str:
        word = words[0]
        if word in self._option_string_actions:
            return f"unexpected argument {word!r} after --; give options before --"
        if word.startswith("-") and len(word) > 1:
            option = word.split("=")[0]
            hint = nearest(option, self._names())
            if not hint and not word.startswith("--") and self._takes_text():
                hint = "; write -- before a text that begins with -"
            return f"unknown option {printable(option)}{hint}"
        if "--dtype" in self._option_string_actions and canonical_name(word) in (*DTYPES, *MATRIX_DTYPES):
            return f"unexpected argument {word!r}; did you mean --dtype {canonical_name(word)}?"
        if "--port" in self._option_string_actions and word.isdecimal():
            return f"unexpected argument {word!r}; did you mean --port {word}?"
        advice = "; put quotes around text with spaces" if self._takes_text() else self.stray
        return f"unexpected argument {word!r}{advice}"

    def _takes_text(self) -> bool:
        positional = self._get_positional_actions()
        return any(one.metavar in ("PROMPT", "TEXT") and one.type is None for one in positional)

    def _names(self) -> list[str]:
        """Return the options, and the names of the positional arguments."""
        return [*self._option_string_actions, *(str(action.metavar) for action in self._get_positional_actions())]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = list(map(str, action.choices))
        hint = nearest(str(value), names)
        choose = f"{hint or ';'} choose from {', '.join(names)}"
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, f"unknown command {value!r}{choose}")
        raise argparse.ArgumentError(action, f"invalid choice: {value!r}{choose}")
