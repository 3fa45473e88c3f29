"""Writes the options of each command into its page, docs/commands/NAME.md, from the command's parser.

python -m tools.command_pages
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rwkv_cy.cli.main import command_parser

__all__ = ["FOLDER", "commands", "options_table", "with_options"]

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "commands"
_BEGIN, _END = "<!-- options: python -m tools.command_pages writes them -->", "<!-- end of options -->"
_BLOCK = re.compile(f"{re.escape(_BEGIN)}\n.*?{re.escape(_END)}", re.DOTALL)


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command by its name."""
    for action in command_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise ValueError("the parser has no commands")


def options_table(parser: argparse.ArgumentParser) -> str:
    """Return a table of a command's arguments and options, in Markdown."""
    lines = ["| Option | Meaning |", "|---|---|"]
    lines += [
        f"| {_names(action, parser)} | {_cell(_help(action, parser))} |"
        for action in sorted(parser._actions, key=lambda action: bool(action.option_strings))
        if action.help != argparse.SUPPRESS
    ]
    return "\n".join(lines)


def _names(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    value = parser._get_formatter()._format_args(action, _default_metavar(action)) if action.nargs != 0 else ""
    if not action.option_strings:
        return f"`{_cell(value)}`"
    names = [*action.option_strings[:-1], f"{action.option_strings[-1]} {value}".rstrip()]
    return ", ".join(f"`{_cell(name)}`" for name in names)


def _default_metavar(action: argparse.Action) -> str:
    return action.dest.upper() if action.option_strings else action.dest


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def with_options(page: str, parser: argparse.ArgumentParser) -> str:
    """Return a page with the table of options in its place; ValueError if it has none."""
    if not _BLOCK.search(page):
        raise ValueError(f"expected a page with {_BEGIN} and {_END}")
    return _BLOCK.sub(lambda _: f"{_BEGIN}\n{options_table(parser)}\n{_END}", page)


def main() -> None:
    """Rewrite the pages that differ."""
    for name, parser in commands().items():
        path = FOLDER / f"{name}.md"
        before = path.read_text("utf-8")
        after = with_options(before, parser)
        if after != before:
            path.write_text(after, "utf-8")
            print(path)


if __name__ == "__main__":
    main()
