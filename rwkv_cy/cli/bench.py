"""``rwkv-cy bench``: how fast a model runs on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import runtime
from rwkv_cy.cli.arguments import common_options, integer
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_load_options
from rwkv_cy.cli.output import print_fields, print_json

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.bench import BenchReport, Spread

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``bench`` to the command's parser."""
    parser = commands.add_parser(
        "bench",
        parents=[common_options()],
        help="measure how fast a model runs here",
        description="Measure decode (one token at a time) and prefill (a prompt at once) in tokens a second, and what "
        "part of the machine's own speed of reading decode reaches: the same threads read the same weights, in turns "
        "with the tokens. Medians of several rounds, with the lowest and the highest.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    parser.add_argument(
        "--threads", type=_thread_counts, metavar="N,N,...", help="numbers of threads (default: one a core)"
    )
    for name, default, text in (
        ("--prefill", 512, "tokens of the prompt"),
        ("--decode", 16, "tokens after it, in each round"),
        ("--rounds", 5, "how often each is measured"),
    ):
        help_text = f"{text} (default: {default})"
        parser.add_argument(name, type=integer(1), default=default, metavar="N", help=help_text)
    add_load_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _thread_counts(text: str) -> list[int]:
    parse = integer(1, runtime.MAX_THREADS)
    counts = [parse(part) for part in text.split(",")]
    if len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"expected each number of threads once, got {text!r}")
    return counts


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.bench import benchmark

    report = benchmark(
        arguments.model,
        threads=arguments.threads,
        prefill=arguments.prefill,
        decode=arguments.decode,
        rounds=arguments.rounds,
        dtype=arguments.dtype,
        memory=arguments.memory,
        activations=arguments.activations,
    )
    if arguments.json:
        print_json(report.to_dict())
    else:
        _print(report)
    return ExitCode.OK


def _print(report: BenchReport) -> None:
    fields = {
        "model": f"{report.path} ({report.architecture}, {report.parameters:,} parameters)",
        "matrices": f"{', '.join(report.dtypes)}, {report.memory}, {report.weight_bytes / 1e6:,.1f} MB read a token",
        "kernels": report.instruction_set,
        "loaded in": f"{report.load_seconds:.3g} s",
    }
    if report.anonymous_bytes is not None and report.file_bytes is not None:
        own, mapped = report.anonymous_bytes / 1e6, report.file_bytes / 1e6
        fields["memory"] = f"{own:,.0f} MB of its own, {mapped:,.0f} MB of mapped files"
    for result in report.results:
        threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
        fields[f"{threads}: decode"] = _spread(result.decode, " tokens/s")
        fields[f"{threads}: prefill {report.prefill_tokens}"] = _spread(result.prefill, " tokens/s")
        fields[f"{threads}: reading alone"] = _spread(result.read, " GB/s", 1e-9)
        fields[f"{threads}: decode reaches"] = _spread(result.share, " % of it", 100)
    print_fields(fields)


def _spread(spread: Spread, unit: str, factor: float = 1) -> str:
    median, lowest, highest = (_figure(value * factor) for value in (spread.median, spread.lowest, spread.highest))
    return f"{median}{unit} ({lowest} to {highest})"


def _figure(value: float) -> str:
    """Return a number in four digits, or all digits of a whole number that has more."""
    return f"{value:,.0f}" if value >= 999.95 else f"{value:.4g}"
