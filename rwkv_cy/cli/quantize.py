"""``rwkv-cy quantize``: writes a model file with matrices in 8, 6 or 4 bits per weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import QUANTIZED_DTYPES, common_options, dtype_name
from rwkv_cy.cli.convert import add_options

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``quantize`` to the command's parser."""
    parser = commands.add_parser(
        "quantize",
        parents=[common_options()],
        help="quantize a model file or checkpoint",
        description="Write a model file with quantized matrices. The same as convert with --dtype q8, q6 or q4; the "
        "source is a model file, or any checkpoint that convert reads.",
    )
    parser.add_argument(
        "--dtype",
        type=dtype_name,
        choices=QUANTIZED_DTYPES,
        default="q8",
        help="type of matrices; the embedding gets 16 bits, vectors keep their type (default: q8)",
    )
    add_options(parser)
