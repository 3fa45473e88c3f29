"""The completion script of bash, from version 3.2 on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rwkv_cy.cli.completion.tree import Command, Value

__all__ = ["bash_script"]

_TEMPLATE = r"""# bash completion for rwkv-cy, written by: rwkv-cy completion bash

_rwkv_cy() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= position=0 words= files= i word
    # bash splits --option=value at the sign, which becomes a word of its own.
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ -z $command ]]; then
            case $word in
                %(commands)s) command=$word ;;
            esac
        elif [[ $word == -?* ]]; then
            case "$command $word" in
                %(valued)s)
                    if [[ ${COMP_WORDS[i + 1]} == "=" ]]; then i=$((i + 1)); fi
                    i=$((i + 1))
                    ;;
            esac
        else
            position=$((position + 1))
        fi
    done
    case "$command $prev" in
%(values)s
        *)
            if [[ $cur == -* ]]; then
                case $command in
%(options)s
                esac
            else
                case "$command $position" in
%(arguments)s
                esac
            fi
            ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    # Where there is no reply, bash completes file names.
    if [[ -z $files ]]; then compopt +o default 2>/dev/null; fi
}

complete -o default -F _rwkv_cy rwkv-cy
"""


def bash_script(program: Command, commands: Sequence[Command]) -> str:
    """Return the script for a program and its commands."""
    everything = (Command("", "", program.options, program.arguments), *commands)
    return _TEMPLATE % {
        "commands": "|".join(command.name for command in commands),
        "valued": " | ".join(_valued(commands)),
        "values": "\n".join(_values(commands)),
        "options": "\n".join(
            f"                    {command.name or _quoted('')}) words={_quoted(' '.join(_names(command)))} ;;"
            for command in everything
        ),
        "arguments": "\n".join(
            f"                    {_quoted(f'{command.name} {position}')}) {_assigned(value)} ;;"
            for command in everything
            for position, value in enumerate(command.arguments)
        ),
    }


def _names(command: Command) -> Iterator[str]:
    for option in command.options:
        yield from option.names


def _valued(commands: Sequence[Command]) -> Iterator[str]:
    """Yield the patterns of all options that take a value."""
    for command in commands:
        for option in command.options:
            if option.value is not None:
                yield from (_quoted(f"{command.name} {name}") for name in option.names)


def _values(commands: Sequence[Command]) -> Iterator[str]:
    """Yield a line for each option that takes a value."""
    for command in commands:
        for option in command.options:
            if option.value is not None:
                patterns = " | ".join(_quoted(f"{command.name} {name}") for name in option.names)
                yield f"        {patterns}) {_assigned(option.value)} ;;"


def _assigned(value: Value) -> str:
    """Return the assignments that describe a value."""
    parts = [
        *(("words=" + _quoted(" ".join(value.words)),) if value.words else ()),
        *(("files=1",) if value.files else ()),
    ]
    return " ".join(parts) or ":"


def _quoted(text: str) -> str:
    """Return a text without quotes in it as a word of the shell."""
    return f"'{text}'"
