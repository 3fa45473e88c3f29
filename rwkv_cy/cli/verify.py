"""``rwkv-cy verify``: checks a model file completely."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, integer, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_error, print_fields, print_json, printable
from rwkv_cy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.fidelity import SourceCheck
    from rwkv_cy.toolkit.verify import FileCheck

__all__ = ["add_parser"]

#: Problems that are printed without --limit.
_LIMIT = 20
#: Formats that cannot have checksums; a .pth archive has them unless torch was told to leave them out.
_WITHOUT_CHECKSUMS = ("safetensors", "gguf", "rwkvcpp", "pth-legacy")


def add_parser(commands: Subparsers) -> None:
    """Add ``verify`` to the command's parser."""
    parser = commands.add_parser(
        "verify",
        parents=[common_options()],
        description="Read every number of a model file or checkpoint: compare checksums where the format has them, "
        "check the parameters against the architecture, and count NaN and Inf. With --against, compare tensors with "
        "those of the file it was converted from, within the precision of their types. The exit code is 1 if there is "
        "a problem; with --quiet, only problems are printed.",
        examples=["rwkv-cy verify model.h5", "rwkv-cy verify model-q8.h5 --against model.pth"],
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a model file, a checkpoint, or a folder of shards")
    parser.add_argument(
        "--against", metavar="SOURCE", type=Path, help="the file that FILE was converted or exported from"
    )
    parser.add_argument(
        "--limit", type=integer(1), default=_LIMIT, metavar="N", help=f"print at most N problems (default: {_LIMIT})"
    )
    output_options(parser, json="print JSON, with all problems")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.verify import verify

    with progress_bar(printable(arguments.file.name), not arguments.no_progress) as progress:
        report = verify(arguments.file, against=arguments.against, progress=progress)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        _print(report)
    for problem in report.problems[: arguments.limit]:
        print_error(problem)
    count = len(report.problems)
    if count > arguments.limit:
        print_error(f"{count - arguments.limit} more problems; --limit {count} prints them")
    return ExitCode.OK if report.ok else ExitCode.REFUSED


def _print(report: FileCheck) -> None:
    count = len(report.problems)
    fields = {
        "file": str(report.path),
        "format": report.format,
        "tensors read": f"{report.tensors} ({byte_size(report.bytes_read)})",
        "checksums": f"{report.checksums} compared" if report.checksums else _without_checksums(report.format),
    }
    if report.against is not None:
        fields["source"] = str(report.against.path)
        fields["compared"] = _agreement(report.against)
    fields["result"] = "ok" if report.ok else f"{count} problem{'s' if count > 1 else ''}"
    print_fields(fields, {"result": "ok" if report.ok else "error"})


def _without_checksums(format: str) -> str:  # noqa: A002 (the field's word)
    return "none in this format" if format in _WITHOUT_CHECKSUMS else "none in this file"


def _agreement(check: SourceCheck) -> str:
    counts = {
        "with the numbers of the source": check.exact,
        "rounded or quantized as a conversion does": check.converted,
        "within the precision of their types": check.within,
    }
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count) or "nothing"
