"""``rwkv-cy models``: lists published models with their sizes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_json, print_table
from rwkv_cy.toolkit.schema_names import named

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

_IN_TABLE = ("bf16", "q8", "q4")


def add_parser(commands: Subparsers) -> None:
    """Add ``models`` to the command's parser."""
    parser = commands.add_parser(
        "models",
        parents=[common_options()],
        description="List models that people use: the short name, which pull takes, the version of RWKV, the size of "
        "the file, and the memory that the weights need by type. The list comes with the package and is not looked up; "
        "sizes are computed from the dimensions of the models.",
        examples=["rwkv-cy models", "rwkv-cy models g1 2.9b"],
    )
    parser.add_argument(
        "words",
        metavar="WORD",
        nargs="*",
        help="list only models whose name or title contains every WORD, as g1 2.9b; 3b finds 2.9b too",
    )
    output_options(parser, progress=False, json="print JSON, with repositories, dimensions and all types")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.known_models import search_known_models

    models = search_known_models(arguments.words)
    if arguments.json:
        print_json(named("models", {"models": [model.to_dict() for model in models]}))
        return ExitCode.OK
    rows = [
        (
            model.name,
            model.version,
            byte_size(model.size),
            *(byte_size(model.memory[dtype]) for dtype in _IN_TABLE),
            str(model.hub_name),
        )
        for model in models
    ]
    print_table(("name", "version", "file", *_IN_TABLE, "where"), rows, right=("file", *_IN_TABLE))
    print()
    print("file: its size; bf16, q8, q4: memory for the weights. rwkv-cy pull NAME downloads one.")
    return ExitCode.OK
