"""``rwkv-cy diff``: compares two model files of any formats."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import check_page_options, common_options, integer, output_options, page_options, real
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import print_fields, print_json, print_page, print_table, print_warning, printable
from rwkv_cy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.diff import DiffReport, TensorDifference

__all__ = ["add_parser"]

_NUMBERS = ("differ", "largest", "at", "mean", "largest rel.", "RMS rel.")
_HEADER = ("tensor", "shape", "types", *_NUMBERS)
#: Tensors and names that are listed without --limit.
_LIMIT = 20
#: Names that only one of two versions has, and that are listed: the others are counted.
_NAMED = 3


def add_parser(commands: Subparsers) -> None:
    """Add ``diff`` to the command's parser."""
    parser = commands.add_parser(
        "diff",
        parents=[common_options()],
        description="Compare two model files or checkpoints of any formats and types: names, shapes, types and numbers "
        "of the tensors, the most different first, and config and tokenizer. Exit code: 0 if tensors and config are "
        "the same, whatever their formats and types; 1 if they differ; 2 if a file is damaged or not supported; 3 if "
        "one cannot be read. With --quiet, it alone tells.",
        examples=[
            "rwkv-cy diff model.pth model.h5",
            "rwkv-cy diff model.pth model-q8.h5 --tolerance 0.05 --limit 3",
            "rwkv-cy diff model.h5 copy.h5 --quiet && echo the same",
        ],
    )
    for name, metavar in (("first", "A"), ("second", "B")):
        parser.add_argument(name, metavar=metavar, type=Path, help="a model file, a checkpoint, or a folder of one")
    parser.add_argument(
        "--tensors",
        metavar="PATTERN",
        default="*",
        help="compare only tensors whose names match, as 'blocks.0.*' or '*.key.weight'",
    )
    parser.add_argument(
        "--tolerance",
        type=real(0),
        default=0.0,
        metavar="T",
        help="the largest difference that counts as equal, relative to the largest number of the tensor (default: 0)",
    )
    parser.add_argument(
        "--limit", type=integer(0), default=_LIMIT, metavar="N", help=f"list at most N tensors (default: {_LIMIT})"
    )
    page_options(parser)
    output_options(parser, json="print JSON, with all tensors")
    # As of diff and cmp: 1 is for files that differ, errors are above it.
    parser.set_defaults(run=_run, refused=ExitCode.USAGE)


def _run(arguments: argparse.Namespace) -> int:
    check_page_options(arguments)
    label = f"{printable(arguments.first.name)}, {printable(arguments.second.name)}"
    bar = progress_bar(label, not arguments.no_progress, unit=" numbers")
    with bar as progress:
        report = _compare(arguments, progress)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        _print(report, arguments.limit)
        print_page(arguments.html)
    return ExitCode.OK if report.same else ExitCode.REFUSED


def _compare(arguments: argparse.Namespace, progress: Callable[[int, int], None] | None) -> DiffReport:
    """Compare the files, and write the page if there is to be one."""
    files = arguments.first, arguments.second
    options = {"tensors": arguments.tensors, "tolerance": arguments.tolerance, "progress": progress}
    if arguments.html is None:
        from rwkv_cy.toolkit.diff import diff

        return diff(*files, **options)
    from rwkv_cy.toolkit.pages.diff_page import write_diff_page

    return write_diff_page(*files, arguments.html, overwrite=arguments.force, **options)


def _print(report: DiffReport, limit: int) -> None:
    from rwkv_cy.toolkit.diff import describe_values

    for problem in report.problems:
        print_warning(f"{problem}; its config is not compared")
    fields = {}
    for letter, path, file_format, architecture in zip(
        "AB", report.paths, report.formats, report.architectures, strict=True
    ):
        fields[letter] = f"{path} ({file_format}, {architecture or 'unknown architecture'})"
    for name, (one, other) in report.config.items():
        fields[f"config {name}"] = "{} in A, {} in B".format(*describe_values(one, other))
    one, other = report.tokenizers
    differ = one if report.same_tokenizer else f"{one} in A, {other} in B"
    fields["tokenizer"] = f"{differ}{' (different)' if not report.same_tokenizer and one == other else ''}"
    other_version = report.architectures[0] != report.architectures[1]
    for letter, names in zip("AB", report.only_in, strict=True):
        if names:
            fields[f"only in {letter}"] = _names(names, min(limit, _NAMED) if other_version else limit)
    fields["tensors"] = f"{len(report.tensors)} in both: {_counts(report)}"
    fields["result"] = _result(report)
    print_fields(fields, {"result": "ok" if report.same else "warning"})
    changed = [tensor for tensor in report.tensors if not tensor.same(0)]
    if changed and limit:
        print()
        print_table(_HEADER, map(_row, changed[:limit]), right=_NUMBERS)
        if len(changed) > limit:
            print(f"and {len(changed) - limit} more that differ: --limit {len(changed)} lists them")


def _names(names: tuple[str, ...], limit: int) -> str:
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return shown if rest <= 0 else f"{shown}{', and ' if shown else ''}{rest} more"


def _counts(report: DiffReport) -> str:
    reshaped = sum(tensor.difference is None for tensor in report.tensors)
    equal = sum(tensor.same(0) for tensor in report.tensors)
    within = len(report.tensors) - len(report.different) - equal
    beyond = len(report.different) - reshaped
    counts = {"equal": equal, "within the tolerance": within, "different": beyond, "of another shape": reshaped}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"


def _result(report: DiffReport) -> str:
    if not report.same:
        one, other = report.architectures
        return "different" if one == other else f"different: {one or 'unknown'} and {other or 'unknown'}"
    changed = any(not tensor.same(0) for tensor in report.tensors)
    return f"the same within {report.tolerance:g} of the largest number of each tensor" if changed else "the same"


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    one, other = ("x".join(map(str, shape)) or "scalar" for shape in tensor.shapes)
    types = tensor.dtypes[0] if tensor.dtypes[0] == tensor.dtypes[1] else " / ".join(tensor.dtypes)
    found = tensor.difference
    if found is None:
        return (tensor.name, f"{one} / {other}", types, *("-" for _ in _NUMBERS))
    place = "-" if tensor.place is None else ",".join(map(str, tensor.place))
    share = f"{100 * found.differing / found.size:.3g} %"
    if found.nonfinite:
        return (tensor.name, one, types, share, "NaN or Inf", place, f"{found.mean:.2e}", "-", "-")
    measures = (found.mean, found.largest_relative, found.relative)
    return (tensor.name, one, types, share, f"{found.largest:.2e}", place, *(f"{value:.2e}" for value in measures))
