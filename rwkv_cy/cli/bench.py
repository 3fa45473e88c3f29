"""``rwkv-cy bench``: measures how fast a model runs on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import runtime
from rwkv_cy.cli.arguments import common_options, integer, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.model_options import add_load_options, warn_of_threads
from rwkv_cy.cli.output import byte_size, markdown_table, print_fields, print_json, print_table, printable
from rwkv_cy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.bench import BenchReport, Spread

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``bench`` to the command's parser."""
    parser = commands.add_parser(
        "bench",
        parents=[common_options()],
        description="Measure decode (one token at a time) and prefill (a prompt at once) in tokens per second, and "
        "which part of the memory bandwidth decode reaches: the same threads read the same bytes, alternating with the "
        "tokens. Medians of several rounds, with the lowest and the highest.",
        examples=[
            "rwkv-cy bench model.h5 --threads 1,2",
            "rwkv-cy bench model.pth --dtype q8 --prefill 64 --rounds 3 --json",
        ],
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file or checkpoint")
    parser.add_argument(
        "-t", "--threads", type=_thread_counts, metavar="N,N,...", help="numbers of threads (default: one per core)"
    )
    for name, default, text in (
        ("--prefill", 512, "tokens of the prompt"),
        ("--decode", 16, "tokens after it in each round"),
        ("--rounds", 5, "number of measurements"),
    ):
        help_text = f"{text} (default: {default})"
        parser.add_argument(name, type=integer(1), default=default, metavar="N", help=help_text)
    add_load_options(parser)
    output_options(parser)
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.set_defaults(run=_run)


def _thread_counts(text: str) -> list[int]:
    parse = integer(1, runtime.MAX_THREADS)
    counts = [parse(part) for part in text.split(",")]
    if len(set(counts)) != len(counts):
        raise argparse.ArgumentTypeError(f"expected each number of threads once, got {text!r}")
    return counts


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.bench import benchmark

    for threads in arguments.threads or ():
        warn_of_threads(threads)
    bar = progress_bar(printable(arguments.model.name), not arguments.no_progress, unit=" rounds")
    with bar as progress:
        report = benchmark(
            arguments.model,
            threads=arguments.threads,
            prefill=arguments.prefill,
            decode=arguments.decode,
            rounds=arguments.rounds,
            dtype=arguments.dtype,
            mmap=arguments.mmap,
            activations=arguments.activations,
            progress=progress,
        )
    if arguments.json:
        print_json(report.to_dict())
    elif arguments.markdown:
        print("\n".join(markdown_table(*_table(report))))
    else:
        _print(report)
    return ExitCode.OK


def _print(report: BenchReport) -> None:
    traffic = {"matrices": report.matrix_bytes, "low-rank factors": report.low_rank_bytes, "state": report.state_bytes}
    parts = ", ".join(f"{name} {byte_size(count)}" for name, count in traffic.items() if count)
    fields = {
        "model": f"{report.path} ({report.architecture}, {report.parameters:,} parameters)",
        "weights": f"{', '.join(report.dtypes)}, {'mapped' if report.mmap else 'resident'}",
        "bytes per token": f"{byte_size(report.token_bytes)} ({parts}; the state is read and written)",
        "kernels": report.instruction_set,
        "loaded in": f"{report.load_seconds:.3g} s",
    }
    if report.anonymous_bytes is not None and report.file_bytes is not None:
        fields["memory"] = f"{byte_size(report.anonymous_bytes)} own, {byte_size(report.file_bytes)} mapped files"
    print_fields(fields)
    print()
    header, rows = _table(report)
    print_table(header, rows, right=header)


def _table(report: BenchReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of the table of results."""
    header = (
        "threads",
        "decode tokens/s",
        f"prefill {report.prefill_tokens} tokens/s",
        "read GB/s",
        "decode % of read",
    )
    rows: list[tuple[str, ...]] = [
        (
            str(result.threads),
            _spread(result.decode),
            _spread(result.prefill),
            _spread(result.read, 1e-9),
            _spread(result.share, 100),
        )
        for result in report.results
    ]
    return header, rows


def _spread(spread: Spread, factor: float = 1) -> str:
    median, lowest, highest = (_figure(value * factor) for value in (spread.median, spread.lowest, spread.highest))
    return f"{median} ({lowest} to {highest})"


def _figure(value: float) -> str:
    """Return a number with four significant digits, or all digits of a larger integer."""
    return f"{value:,.0f}" if value >= 999.95 else f"{value:.4g}"
