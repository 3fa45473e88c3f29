"""What the command accepts, as data for completion scripts: commands, options, and what their values may be."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from rwkv_cy.records import dataclass

__all__ = ["Command", "Option", "Value", "command_tree"]

#: Names of positional arguments that are paths, whatever their type is.
_PATHS = ("FILE", "FOLDER", "MODEL", "SOURCE", "TARGET")
#: What shells take as it is.
_PLAIN = re.compile(r"[\w.+-]+", re.ASCII)
#: What follows the first clause of a help text.
_REST = re.compile(r";| \(default")


@dataclass(frozen=True)
class Value:
    """What an option or a positional argument takes.

    Attributes
    ----------
    name : str
        What help texts call it.
    words : tuple of str
        Words that it may be.
    files : bool
        Whether it may be a path.
    optional : bool
        Whether it may be missing.
    """

    name: str
    words: tuple[str, ...] = ()
    files: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Option:
    """An option: its names, help, and value.

    Attributes
    ----------
    names : tuple of str
        ``("-n", "--max-tokens")``.
    help : str
        The first clause of its help text.
    value : Value or None
        None for a switch.
    repeatable : bool
    """

    names: tuple[str, ...]
    help: str
    value: Value | None
    repeatable: bool


@dataclass(frozen=True)
class Command:
    """A command, or the program itself, whose only argument is the name of a command.

    Attributes
    ----------
    name : str
    help : str
    options : tuple of Option
    arguments : tuple of Value
        The positional arguments.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]


def command_tree(parser: argparse.ArgumentParser) -> tuple[Command, tuple[Command, ...]]:
    """Return the program itself, and its commands, ``help`` among them.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        A parser whose only positional argument are subcommands.
    """
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._get_subactions()}
    commands = [_command(name, helps.get(name, ""), each) for name, each in subparsers.choices.items()]
    names = Value("COMMAND", tuple(subparsers.choices))
    commands.append(Command("help", "show the help of a command", (), (names,)))
    options = _command(parser.prog, "", parser).options
    return Command(parser.prog, "", options, (Value("COMMAND", (*names.words, "help")),)), tuple(commands)


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    options, arguments = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        if action.option_strings:
            value = None if action.nargs == 0 else _value(action)
            repeatable = isinstance(action, argparse._AppendAction)
            options.append(Option(tuple(action.option_strings), _first_clause(action.help), value, repeatable))
        else:
            arguments.append(_value(action))
    return Command(name, _first_clause(text), tuple(options), tuple(arguments))


def _value(action: argparse.Action) -> Value:
    """Return what an action takes: its choices, those that its name lists (``bytes|world|FILE``), or paths."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    alternatives = name.split("|")
    if action.choices is not None:
        words: Iterator[str] = map(str, action.choices)
    else:
        words = (word for word in alternatives if word.islower())
    return Value(
        name,
        tuple(word for word in words if _PLAIN.fullmatch(word)),
        action.type is Path or not set(_PATHS).isdisjoint(alternatives),
        action.nargs == "?",
    )


def _first_clause(text: str | None) -> str:
    return _REST.split(text or "", maxsplit=1)[0].replace("%%", "%")
