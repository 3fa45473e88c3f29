"""``rwkv-cy inspect``: describes a model file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import check_page_options, common_options, page_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import (
    byte_size,
    config_fields,
    print_fields,
    print_json,
    print_page,
    print_table,
    print_warning,
    printable,
)
from rwkv_cy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.tensors.statistics import TensorStatistics
    from rwkv_cy.toolkit.inspect import FileReport, TensorReport

__all__ = ["add_parser"]

_STATISTICS = ("min", "max", "mean", "std", "zeros", "NaN", "Inf")
#: Longer metadata values are shortened in the table; JSON has them in full.
_LONGEST = 200


def add_parser(commands: Subparsers) -> None:
    """Add ``inspect`` to the command's parser."""
    parser = commands.add_parser(
        "inspect",
        parents=[common_options()],
        help="describe a file: dimensions, types, sizes, tensors",
        description="Describe a model file or checkpoint. Reads headers only, unless --stats is given.",
        examples=[
            "rwkv-cy inspect model.pth --no-tensors",
            "rwkv-cy inspect model.h5 --stats --tensors 'blocks.0.*'",
        ],
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a model file, a checkpoint, or a folder of shards")
    parser.add_argument("--stats", action="store_true", help="read the numbers too, and describe those of each tensor")
    listed = parser.add_mutually_exclusive_group()
    listed.add_argument("--no-tensors", action="store_true", help="print the summary only, without the tensors")
    listed.add_argument(
        "--tensors", metavar="PATTERN", help="list only tensors whose names match, as 'blocks.0.*' or '*.key.weight'"
    )
    page_options(parser)
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.inspect import inspect

    check_page_options(arguments)
    if arguments.stats and arguments.no_tensors:
        arguments.parser.error(
            "--stats describes the numbers of each tensor, and --no-tensors hides them; leave one out"
        )
    reads_numbers = arguments.stats or arguments.html is not None
    bar = progress_bar(printable(arguments.file.name), reads_numbers and not arguments.no_progress)
    with bar as progress:
        if arguments.html is None:
            report = inspect(arguments.file, arguments.stats, progress=progress)
        else:
            from rwkv_cy.toolkit.pages.model_page import write_model_page

            report = write_model_page(arguments.file, arguments.html, overwrite=arguments.force, progress=progress)
    pattern = "*" if arguments.tensors is None else arguments.tensors
    tensors = tuple(tensor for tensor in report.tensors if fnmatchcase(tensor.name, pattern))
    if not tensors and arguments.tensors is not None:
        print_warning(f"{arguments.file}: no tensor has a name that matches {pattern!r}")
    in_page_alone = arguments.html is not None and not (arguments.stats or arguments.tensors or arguments.json)
    report = replace(report, tensors=() if arguments.no_tensors or in_page_alone else tensors)
    if arguments.json:
        print_json(report.to_dict())
    else:
        _print_report(report)
        for problem in report.problems:
            print_warning(problem)
        print_page(arguments.html)
    return ExitCode.OK


def _print_report(report: FileReport) -> None:
    fields = {
        "file": str(report.path),
        "format": report.format,
        "architecture": report.architecture or "unknown",
        **(config_fields(report.config) if report.config else {}),
        "parameters": f"{report.num_parameters:,}",
        "tensors": ", ".join(f"{count} {dtype}" for dtype, count in sorted(report.dtypes.items())) or "none",
        "size on disk": byte_size(report.bytes_on_disk),
        "size in memory": byte_size(report.bytes_in_memory),
    }
    if report.table_bytes:
        fields["tables"] = f"{byte_size(report.table_bytes)}, read from the file row by row"
    if report.memory:
        needed = (f"{dtype} {byte_size(count)}" for dtype, count in report.memory.items())
        fields["memory as"] = ", ".join(needed)
    if report.state_bytes is not None:
        fields["state"] = f"{byte_size(report.state_bytes)} per sequence"
    optional = {"tokenizer": report.tokenizer, "fingerprint": report.fingerprint, "created by": report.created_by}
    fields.update({name: value for name, value in optional.items() if value is not None})
    fields.update({f"source {name}": _source_value(name, value) for name, value in report.source.items()})
    fields.update({f"metadata {name}": _cut(value) for name, value in report.metadata.items()})
    print_fields(fields)
    if report.tensors:
        print()
        has_statistics = report.tensors[0].statistics is not None
        numbers = ("bytes", *_STATISTICS)
        header = ("tensor", "shape", "type", "bytes", *(_STATISTICS if has_statistics else ()))
        print_table(header, map(_row, report.tensors), right=numbers)
        if report.left_out:
            print()
            print_table(("left out", "what"), report.left_out.items())


def _source_value(name: str, value: str) -> str:
    return byte_size(int(value)) if name == "size" and value.isdigit() else value


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}... ({len(value):,} characters)"


def _row(tensor: TensorReport) -> tuple[str, ...]:
    shape = " x ".join(map(str, tensor.shape))
    row = (tensor.name, shape, tensor.dtype, f"{tensor.nbytes:,}")
    return row if tensor.statistics is None else (*row, *_numbers(tensor.statistics))


def _numbers(statistics: TensorStatistics) -> tuple[str, ...]:
    values = (statistics.minimum, statistics.maximum, statistics.mean, statistics.std)
    counts = (statistics.zeros, statistics.nan, statistics.inf)
    return (*("-" if value is None else f"{value:.4g}" for value in values), *(f"{count:,}" for count in counts))
