"""``rwkv-cy quantize``: writes a model file with matrices in 8, 6 or 4 bits per weight, and measures the error."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import QUANTIZED_DTYPES, common_options, dtype_name, integer
from rwkv_cy.cli.convert import add_options, carry_out, print_report
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_fields, print_json, print_table, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.standard_input import read_text
from rwkv_cy.cli.targets import refuse_swapped
from rwkv_cy.errors import TokenError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.calibration import Calibration
    from rwkv_cy.toolkit.convert import ConversionReport
    from rwkv_cy.toolkit.divergence import DivergenceReport

__all__ = ["add_parser"]

#: Tensors that are listed without --limit.
_LIMIT = 5


def add_parser(commands: Subparsers) -> None:
    """Add ``quantize`` to the command's parser."""
    parser = commands.add_parser(
        "quantize",
        parents=[common_options()],
        description="Write a model file with quantized matrices, as convert with --dtype q8, q6, q4 or q4n does, and "
        "report the errors by tensor and, with --text, how the predictions change. The source is a model file, or any "
        "checkpoint that convert reads.",
        examples=[
            "rwkv-cy quantize model.h5 model-q8.h5",
            "rwkv-cy quantize model.h5 model-q4n.h5 --dtype q4n --calibrate text.txt",
            "rwkv-cy quantize model.pth small.h5 --dtype q4 --keep head.weight=q8 --text text.txt",
        ],
    )
    parser.add_argument(
        "--dtype",
        type=dtype_name,
        choices=QUANTIZED_DTYPES,
        default="q8",
        help="type of matrices; the embedding gets 16 bits, low-rank factors get q8, vectors keep their type "
        "(default: q8)",
    )
    add_options(parser)
    parser.add_argument(
        "--limit",
        type=integer(0),
        default=_LIMIT,
        metavar="N",
        help=f"list the N tensors with the largest relative errors (default: {_LIMIT})",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="a text for which perplexity and KL divergence from SOURCE are measured; - reads standard input",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="a text that SOURCE reads first: products with its activations get small errors in q6, q4 and q4n; "
        "- reads standard input",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.tensors.rounding import describe_rounding

    text = None if arguments.text is None else read_text(arguments.text)
    if text is not None:
        refuse_swapped(arguments.source, arguments.target)
        _check_text(arguments, *text)
    calibrate = None if arguments.calibrate is None else partial(_calibrate, arguments, *read_text(arguments.calibrate))
    report = carry_out(arguments, measure=True, calibrate=calibrate)
    if report is None:
        return ExitCode.OK
    if not (arguments.json or arguments.quiet):
        print_report(report, {"precision": describe_rounding(report.rounding, len(report.plan.tensors))})
        _print_errors(report, arguments.limit)
    found = None if text is None else _compare(arguments, *text)
    if arguments.json:
        print_json({**report.to_dict(), "divergence": None if found is None else found.to_dict()})
    elif found is not None and not arguments.quiet:
        _print_divergence(found)
    return ExitCode.OK


def _check_text(arguments: argparse.Namespace, name: str, text: bytes) -> None:
    """Raise an error if nothing could be measured on a text, before the model is quantized."""
    from rwkv_cy.checkpoint.tokenizer_choice import named_tokenizer
    from rwkv_cy.cli.model_options import no_tokenizer
    from rwkv_cy.model.loading import load_tokenizer_of

    tokenizer = load_tokenizer_of(arguments.source)
    if tokenizer is None and arguments.tokenizer not in ("auto", "none"):
        tokenizer = named_tokenizer(arguments.tokenizer)
    if tokenizer is None:
        raise no_tokenizer(arguments.source)
    count = len(tokenizer.encode_bytes(text))
    if count < 2:
        raise TokenError(f"{name}: expected at least two tokens, got {count}")


def _calibrate(arguments: argparse.Namespace, name: str, text: bytes) -> Calibration:
    from rwkv_cy.toolkit.calibration import calibrate

    tokenizer = None if arguments.tokenizer in ("auto", "none") else arguments.tokenizer
    with progress_bar(printable(name), not arguments.no_progress, unit=" tokens") as progress:
        return calibrate(arguments.source, text, tokenizer=tokenizer, progress=progress, name=name)


def _print_errors(report: ConversionReport, limit: int) -> None:
    """List the tensors with the largest relative errors."""
    if not (report.rounding and limit):
        return
    dtypes = {tensor.name: tensor.dtype for tensor in report.plan.tensors}
    worst = sorted(report.rounding.items(), key=lambda item: -item[1].relative)[:limit]
    print()
    header = ("tensor", "type", "relative error", "largest")
    rows = [(name, dtypes[name], f"{error.relative:.2e}", f"{error.largest:.2e}") for name, error in worst]
    print_table(header, rows, right=header[2:])
    if len(report.rounding) > limit:
        print(f"and {len(report.rounding) - limit} more with errors: --limit {len(report.rounding)} lists them")


def _compare(arguments: argparse.Namespace, name: str, text: bytes) -> DivergenceReport:
    from rwkv_cy.model.language_model import load
    from rwkv_cy.toolkit.divergence import divergence

    bar = progress_bar(printable(name), not arguments.no_progress, unit=" tokens")
    with load(arguments.source) as reference, load(arguments.target) as model, bar as progress:
        tokenized = model if reference.tokenizer is None else reference
        tokens = text if tokenized.tokenizer is None else tokenized.tokenizer.encode_bytes(text)
        return divergence(reference, model, tokens, progress=progress, name=name)


def _print_divergence(report: DivergenceReport) -> None:
    print()
    print_fields(
        {
            "tokens predicted": f"{report.tokens:,}",
            "perplexity": f"{report.perplexity:.6g} (source {report.reference_perplexity:.6g})",
            "KL divergence": f"{report.kl:.2e} nats per token, largest {report.largest_kl:.2e}",
            "same top token": f"{100 * report.same_top / report.tokens:.4g} %",
        }
    )
