"""The completion script of zsh, from version 5 on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from shlex import quote

from rwkv_cy.cli.completion.tree import Command, Option, Value

__all__ = ["zsh_script"]

_TEMPLATE = """#compdef rwkv-cy
# zsh completion for rwkv-cy, written by: rwkv-cy completion zsh

_rwkv_cy_words_or_files() {
  _alternative "words:word:($*)" 'files:file:_files'
}

_rwkv_cy() {
  local curcontext=$curcontext state line
  local -a commands
  typeset -A opt_args
  _arguments -C -s \\
    %(options)s \\
    '1:command:->command' \\
    '*::argument:->argument'
  case $state in
    command)
      commands=(
        %(commands)s
      )
      _describe -t commands command commands
      ;;
    argument)
      case $words[1] in
%(cases)s
      esac
      ;;
  esac
}

if [[ $funcstack[1] == _rwkv_cy ]]; then
  _rwkv_cy "$@"
else
  compdef _rwkv_cy rwkv-cy
fi
"""
#: What separates the parts of a specification.
_SEPARATORS = re.compile(r"[][:\\]")


def zsh_script(program: Command, commands: Sequence[Command]) -> str:
    """Return the script for a program and its commands."""
    return _TEMPLATE % {
        "options": " \\\n    ".join(_options(program)),
        "commands": "\n        ".join(quote(f"{command.name}:{_plain(command.help)}") for command in commands),
        "cases": "\n".join(_case(command) for command in commands),
    }


def _case(command: Command) -> str:
    arguments = (_argument(position, value) for position, value in enumerate(command.arguments, 1))
    lines = " \\\n            ".join(("_arguments -s", *_options(command), *arguments))
    return f"        {command.name})\n          {lines}\n          ;;"


def _options(command: Command) -> Iterator[str]:
    for option in command.options:
        yield from (quote(_specification(option, name)) for name in option.names)


def _specification(option: Option, name: str) -> str:
    """Return the specification of one name of an option; using it excludes the others, unless it is repeatable."""
    once = "*" if option.repeatable else f"({' '.join(option.names)})"
    if option.value is None:
        return f"{once}{name}[{_plain(option.help)}]"
    sign = "=" if name.startswith("--") else "+"  # the value may follow directly
    return f"{once}{name}{sign}[{_plain(option.help)}]:{_plain(option.value.name)}:{_action(option.value)}"


def _argument(position: int, value: Value) -> str:
    return quote(f"{position}{':' if value.optional else ''}:{_plain(value.name)}:{_action(value)}")


def _action(value: Value) -> str:
    words = " ".join(value.words)
    if value.files:
        return f" _rwkv_cy_words_or_files {words}" if words else "_files"
    return f"({words})" if words else " "


def _plain(text: str) -> str:
    return _SEPARATORS.sub("", text)
