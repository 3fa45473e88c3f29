"""``rwkv-cy completion``: prints a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options
from rwkv_cy.cli.completion.bash import bash_script
from rwkv_cy.cli.completion.fish import fish_script
from rwkv_cy.cli.completion.tree import command_tree
from rwkv_cy.cli.completion.zsh import zsh_script
from rwkv_cy.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

_SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


def add_parser(commands: Subparsers) -> None:
    """Add ``completion`` to the command's parser."""
    parser = commands.add_parser(
        "completion",
        parents=[common_options()],
        description="Print a script with which a shell completes commands, options, their values and file names. It "
        "does not run rwkv-cy: write it again after an update. For zsh, the folder must be in fpath before compinit.",
        examples=[
            "rwkv-cy completion bash > ~/.local/share/bash-completion/completions/rwkv-cy",
            "rwkv-cy completion zsh > ~/.zfunc/_rwkv-cy",
            "rwkv-cy completion fish > ~/.config/fish/completions/rwkv-cy.fish",
        ],
    )
    parser.add_argument("shell", metavar="SHELL", choices=list(_SCRIPTS), help="bash, zsh or fish")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.cli.main import command_parser  # which imports this module

    print(_SCRIPTS[arguments.shell](*command_tree(command_parser())), end="")
    return ExitCode.OK
