"""Options of the commands that run a model, and the model that they load."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import runtime
from rwkv_cy.cli.arguments import ACTIVATIONS, DTYPES, PACKED_DTYPE, QUANTIZED_DTYPES, dtype_name, integer
from rwkv_cy.cli.output import print_warning, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.errors import TokenizerError

if TYPE_CHECKING:
    from rwkv_cy.model.language_model import LanguageModel
    from rwkv_cy.text import Tokenizer

__all__ = ["add_load_options", "add_text_options", "load_text_model", "no_tokenizer", "tokenizer_of", "warn_of_threads"]

#: Seconds before the progress of loading is shown: a mapped file is loaded in less.
_DELAY = 0.5


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, ``--no-mmap`` and ``--activations``, as in :func:`rwkv_cy.load`."""
    parser.add_argument(
        "--dtype",
        type=dtype_name,
        choices=[*DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES],
        help="convert the matrices to this type in memory (default: keep the stored type)",
    )
    parser.add_argument(
        "--no-mmap",
        dest="mmap",
        action="store_false",
        help="read the weights into memory instead of mapping the file",
    )
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="f32",
        help="bf16 rounds activations to bf16 before products in bf16: for CPUs with AMX, by AMD with "
        "AVX512-BF16, and by ARM with BF16 (default: f32)",
    )


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`load_text_model` reads."""
    parser.add_argument(
        "-t",
        "--threads",
        type=integer(1, runtime.MAX_THREADS),
        metavar="N",
        help="threads to use (default: one per core)",
    )
    parser.add_argument("--tokenizer", metavar="bytes|world|FILE", help="replaces the model's own")
    add_load_options(parser)


def load_text_model(path: Path, arguments: argparse.Namespace) -> LanguageModel:
    """Load the model at `path` according to the options, and set the number of threads.

    Raises
    ------
    TokenizerError
        If neither the model nor the options provide a tokenizer.
    KernelError
        If RWKV_CY_ISA is not an instruction set that this machine and this build have.
    """
    from rwkv_cy.kernels.dispatch import active_instruction_set
    from rwkv_cy.model.language_model import load

    active_instruction_set()  # a wrong RWKV_CY_ISA is reported before anything is read or printed
    if arguments.threads is not None:
        warn_of_threads(arguments.threads)
        runtime.set_num_threads(arguments.threads)
    with progress_bar(f"loading {printable(path.name)}", not arguments.no_progress, delay=_DELAY) as progress:
        model = load(
            path,
            dtype=arguments.dtype,
            mmap=arguments.mmap,
            tokenizer=arguments.tokenizer,
            activations=arguments.activations,
            progress=progress,
        )
    tokenizer_of(model, path)
    return model


def tokenizer_of(model: LanguageModel, path: Path) -> Tokenizer:
    """Return the tokenizer of the model that was loaded from `path`; TokenizerError if there is none."""
    if model.tokenizer is None:
        raise no_tokenizer(path)
    return model.tokenizer


def no_tokenizer(path: Path) -> TokenizerError:
    """Return the error for a model without tokenizer."""
    return TokenizerError(f"{path}: the model has no tokenizer; pass one with --tokenizer bytes, world or FILE")


def warn_of_threads(threads: int) -> None:
    """Print a warning if there are more threads than cores."""
    cores = runtime.available_cpus()
    if threads > cores:
        print_warning(
            f"{threads} threads on {cores} core{'s' if cores > 1 else ''}: more threads than cores are usually slower"
        )
