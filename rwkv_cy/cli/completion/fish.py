"""The completion script of fish, from version 3 on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rwkv_cy.cli.completion.tree import Command, Option, Value

__all__ = ["fish_script"]

_HEADER = "# fish completion for rwkv-cy, written by: rwkv-cy completion fish\n"


def fish_script(program: Command, commands: Sequence[Command]) -> str:
    """Return the script for a program and its commands."""
    return (
        "\n".join([_HEADER, *_program(program, commands), *(line for each in commands for line in _command(each))])
        + "\n"
    )


def _program(program: Command, commands: Sequence[Command]) -> Iterator[str]:
    for command in commands:
        yield _complete("__fish_use_subcommand", f"-f -a {command.name} -d {_quoted(command.help)}")
    for option in program.options:
        yield _complete("__fish_use_subcommand", _option(option))


def _command(command: Command) -> Iterator[str]:
    seen = f"__fish_seen_subcommand_from {command.name}"
    words = " ".join(word for value in command.arguments for word in value.words)
    if not any(value.files for value in command.arguments):
        yield _complete(seen, f"-f{f' -a {_quoted(words)}' if words else ''}")
    for option in command.options:
        yield _complete(seen, _option(option))


def _option(option: Option) -> str:
    names = (f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = "" if option.value is None else f" {_value(option.value)}"
    return f"{' '.join(names)}{value} -d {_quoted(option.help)}"


def _value(value: Value) -> str:
    words = f" -a {_quoted(' '.join(value.words))}" if value.words else ""
    return f"-r -F{words}" if value.files else f"-x{words}"


def _complete(condition: str, rest: str) -> str:
    return f"complete -c rwkv-cy -n {_quoted(condition)} {rest}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
