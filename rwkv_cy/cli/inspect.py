"""``rwkv-cy inspect``: describes a model file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import check_page_options, common_options, page_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_json, print_page, print_table, print_warning, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.lazy import import_later
from rwkv_cy.records import replace

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.tensors.statistics import TensorStatistics
    from rwkv_cy.toolkit.file_report import FileReport, TensorReport

__all__ = ["add_parser"]

_STATISTICS = ("min", "max", "mean", "std", "zeros", "NaN", "Inf")
_ALL = "*"
#: Longer keys of metadata do not move the column of the values.
_WIDEST_KEY = 48


def add_parser(commands: Subparsers) -> None:
    """Add ``inspect`` to the command's parser."""
    parser = commands.add_parser(
        "inspect",
        parents=[common_options()],
        description="Describe a model file or checkpoint: what it is, its types and sizes, its tokenizer, "
        "and the memory and the speed to expect on this machine. Reads headers only, unless --stats is given. "
        "--tensors, --stats and --metadata list what they name, instead of the summary.",
        examples=[
            "rwkv-cy inspect model.pth",
            "rwkv-cy inspect model.h5 --stats --tensors 'blocks.0.*'",
        ],
        stray="; inspect describes one file, and diff compares two",
    )
    parser.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="a model file, a checkpoint, or a folder of shards"
    )
    listed = parser.add_mutually_exclusive_group()
    listed.add_argument(
        "--tensors",
        metavar="PATTERN",
        nargs="?",
        const=_ALL,
        help="list the tensors, or those whose names match, as 'blocks.0.*' or '*.key.weight'",
    )
    listed.add_argument(
        "--no-tensors", action="store_true", help="print the summary, as without options; no tensors in the JSON"
    )
    parser.add_argument(
        "--stats", action="store_true", help="list the tensors, read their numbers too, and describe these"
    )
    parser.add_argument("--metadata", action="store_true", help="list the metadata of the file, in full")
    page_options(parser)
    parser.add_argument("--no-speed", action="store_true", help="do not estimate the speed on this machine")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run, parser=parser)


def _run(arguments: argparse.Namespace) -> int:
    check_page_options(arguments)
    file, pattern = _file_and_pattern(arguments)
    lists = pattern is not None or arguments.metadata
    speed = not arguments.no_speed and (arguments.json or not lists)
    import_later("numpy")  # what takes longest to load, and what headers do not need
    if speed:  # the sample needs another core alone: it begins before the modules are loaded
        from rwkv_cy.toolkit.bandwidth import machine_sample

        machine_sample().start()
    # JSON is complete: it has all tensors, unless others are named.
    wanted = _ALL if arguments.json and pattern is None and not arguments.no_tensors else pattern
    report = _report(arguments, file, wanted, speed)
    if arguments.json:
        print_json(report.to_dict())
    elif lists:
        _print_lists(report, arguments.metadata)
    else:
        from rwkv_cy.cli.file_summary import print_summary

        print_summary(report)
    if not arguments.json:
        for message in (*report.warnings, *report.problems):
            print_warning(message)
        print_page(arguments.html)
    return ExitCode.OK


def _report(arguments: argparse.Namespace, file: Path, tensors: str | None, speed: bool) -> FileReport:
    """Describe the file, and write the page if there is to be one."""
    from rwkv_cy.toolkit.inspect import inspect

    reads_numbers = arguments.stats or arguments.html is not None
    with progress_bar(printable(file.name), reads_numbers and not arguments.no_progress) as progress:
        if arguments.html is None:
            return inspect(file, arguments.stats, tensors=tensors, speed=speed, progress=progress)
        from rwkv_cy.toolkit.pages.model_page import write_model_page

        listed = inspect(file, tensors=tensors, speed=False).tensors  # an error comes before the page
        report = write_model_page(
            file, arguments.html, overwrite=arguments.force, speed=not arguments.no_speed, progress=progress
        )
    names = {one.name for one in listed}
    return replace(report, tensors=tuple(one for one in report.tensors if one.name in names))


def _file_and_pattern(arguments: argparse.Namespace) -> tuple[Path, str | None]:
    """Return the file and the pattern of the tensors to list, None for the summary."""
    file, pattern = arguments.file, arguments.tensors
    if file is None and pattern not in (None, _ALL) and Path(pattern).exists():
        file, pattern = Path(pattern), _ALL  # inspect --tensors FILE
    if file is None:
        arguments.parser.error("the following arguments are required: FILE")
    if arguments.stats and arguments.no_tensors:
        arguments.parser.error(
            "--stats describes the numbers of each tensor, and --no-tensors hides them; leave one out"
        )
    return file, _ALL if pattern is None and arguments.stats else pattern


def _print_lists(report: FileReport, metadata: bool) -> None:
    if metadata:
        _print_metadata(report)
    if report.tensors:
        has_statistics = report.tensors[0].statistics is not None
        header = ("tensor", "shape", "type", "bytes", *(_STATISTICS if has_statistics else ()))
        print_table(header, map(_row, report.tensors), right=("bytes", *_STATISTICS))
    if report.left_out and not metadata:
        print()
        print_table(("left out", "what"), report.left_out.items())


def _print_metadata(report: FileReport) -> None:
    own = {"created by": report.created_by, "fingerprint": report.fingerprint}
    known = {
        **report.metadata,
        **{f"source {key}": value for key, value in report.source.items()},
        **{key: value for key, value in own.items() if value is not None},
    }
    entries = [(printable(key), printable(value)) for key, value in known.items()]
    if not entries:
        print_warning(f"{report.path}: the file has no metadata")
        return
    width = min(max(len(key) for key, _ in entries), _WIDEST_KEY)
    for key, value in entries:  # of any length, on one line each, for grep
        print(f"{key.ljust(width)}  {value}")
    if report.tensors:
        print()


def _row(tensor: TensorReport) -> tuple[str, ...]:
    shape = " x ".join(map(str, tensor.shape))
    row = (tensor.name, shape, tensor.dtype, f"{tensor.nbytes:,}")
    return row if tensor.statistics is None else (*row, *_numbers(tensor.statistics))


def _numbers(statistics: TensorStatistics) -> tuple[str, ...]:
    values = (statistics.minimum, statistics.maximum, statistics.mean, statistics.std)
    counts = (statistics.zeros, statistics.nan, statistics.inf)
    return (*("-" if value is None else f"{value:.4g}" for value in values), *(f"{count:,}" for count in counts))
