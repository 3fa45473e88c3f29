"""``rwkv-cy perplexity``: measures how well a model predicts a text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_text_options, load_text_model
from rwkv_cy.cli.output import print_fields, print_json, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.standard_input import read_text

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``perplexity`` to the command's parser."""
    parser = commands.add_parser(
        "perplexity",
        parents=[common_options()],
        description="Print the perplexity of a text per token, and the bits per byte, which are comparable between "
        "vocabularies. The state is carried from the first token to the last.",
        examples=[
            "rwkv-cy perplexity model.h5 text.txt",
            "cat text.txt | rwkv-cy perplexity model.h5 - --window 512 --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    parser.add_argument("text", metavar="TEXT", type=Path, help="a text file; - reads standard input")
    parser.add_argument("--window", type=integer(2), metavar="N", help="restart from the initial state every N tokens")
    add_text_options(parser)
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.perplexity import perplexity

    name, text = read_text(arguments.text)
    model = load_text_model(arguments.model, arguments)
    with progress_bar(printable(name), not arguments.no_progress, unit=" tokens") as progress:
        report = perplexity(model, text, window=arguments.window, progress=progress, name=name)
    if arguments.json:
        print_json(report.to_dict())
        return ExitCode.OK
    print_fields(
        {
            "perplexity": f"{report.perplexity:.6g}",
            "bits per byte": "unknown" if report.bits_per_byte is None else f"{report.bits_per_byte:.6g}",
            "tokens predicted": f"{report.tokens:,}",
        }
    )
    return ExitCode.OK
