"""``rwkv-cy quantize``: a model file whose matrices take 8, 6 or 4 bits a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import QUANTIZED_DTYPES, common_options
from rwkv_cy.cli.convert import add_options

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``quantize`` to the command's parser."""
    parser = commands.add_parser(
        "quantize",
        parents=[common_options()],
        help="turn a model file or checkpoint into a quantized model file",
        description="Write a model file whose matrices are quantized. The same as convert with --dtype q8, q6 or q4; "
        "the source is one of our model files, or any checkpoint that convert takes.",
    )
    parser.add_argument(
        "--dtype",
        choices=QUANTIZED_DTYPES,
        default="q8",
        help="type of matrices; the embedding has 16 bits, vectors stay as they are (default: q8)",
    )
    add_options(parser)
