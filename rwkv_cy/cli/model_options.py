"""Options of the commands that run a model, and the model that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import runtime
from rwkv_cy.cli.arguments import ACTIVATIONS, DTYPES, PACKED_DTYPE, QUANTIZED_DTYPES, integer
from rwkv_cy.errors import TokenizerError

if TYPE_CHECKING:
    from rwkv_cy.model.language_model import LanguageModel

__all__ = ["add_load_options", "add_text_options", "load_text_model"]


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, ``--memory`` and ``--activations``, as :func:`rwkv_cy.load` has them."""
    parser.add_argument(
        "--dtype",
        choices=[*DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES],
        help="load the matrices in this type (default: as they are stored)",
    )
    parser.add_argument(
        "--memory",
        choices=runtime.MEMORY_KINDS,
        default="map",
        help="use the weights where they lie in the file, or read them into memory first (default: map)",
    )
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="f32",
        help="bf16 rounds what matrices in bf16 are multiplied with: faster on CPUs with AVX512-BF16 (default: f32)",
    )


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`load_text_model` asks for beside the model."""
    parser.add_argument(
        "--threads", type=integer(1, runtime.MAX_THREADS), metavar="N", help="threads to use (default: one a core)"
    )
    parser.add_argument("--tokenizer", metavar="bytes|world|FILE", help="in place of the model's own")
    add_load_options(parser)


def load_text_model(path: Path, arguments: argparse.Namespace) -> LanguageModel:
    """Load the model at `path` as the options say, and set the number of threads.

    Raises
    ------
    TokenizerError
        If it has no tokenizer, and none is named.
    """
    from rwkv_cy.model.language_model import load

    if arguments.threads is not None:
        runtime.set_num_threads(arguments.threads)
    model = load(
        path,
        dtype=arguments.dtype,
        memory=arguments.memory,
        tokenizer=arguments.tokenizer,
        activations=arguments.activations,
    )
    if model.tokenizer is None:
        raise TokenizerError(f"{path}: expected a model with its tokenizer, got one without; name it with --tokenizer")
    return model
