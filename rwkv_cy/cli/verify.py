"""``rwkv-cy verify``: checks a model file completely."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_error, print_fields, print_json, printable
from rwkv_cy.cli.progress import progress_bar

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.fidelity import SourceCheck

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``verify`` to the command's parser."""
    parser = commands.add_parser(
        "verify",
        parents=[common_options()],
        help="check a file completely",
        description="Read every number of a model file or checkpoint: compare checksums where the format has them, "
        "check the parameters against the architecture, and count NaN and Inf. With --against, compare tensors with "
        "those of the file it was converted from, within the precision of their types.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a model file, a checkpoint, or a folder of shards")
    parser.add_argument(
        "--against", metavar="SOURCE", type=Path, help="the file that FILE was converted or exported from"
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.verify import verify

    with progress_bar(printable(arguments.file.name), not arguments.no_progress) as progress:
        report = verify(arguments.file, against=arguments.against, progress=progress)
    if arguments.json:
        print_json(report.to_dict())
    else:
        count = len(report.problems)
        fields = {
            "file": str(report.path),
            "format": report.format,
            "tensors read": f"{report.tensors} ({byte_size(report.bytes_read)})",
            "checksums": f"{report.checksums} compared" if report.checksums else "none in this file",
        }
        if report.against is not None:
            fields["source"] = str(report.against.path)
            fields["compared"] = _agreement(report.against)
        print_fields({**fields, "result": "ok" if report.ok else f"{count} problem{'s' if count > 1 else ''}"})
    for problem in report.problems:
        print_error(problem)
    return ExitCode.OK if report.ok else ExitCode.REFUSED


def _agreement(check: SourceCheck) -> str:
    counts = {
        "with the numbers of the source": check.exact,
        "rounded or quantized as a conversion does": check.converted,
        "within the precision of their types": check.within,
    }
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count) or "nothing"
