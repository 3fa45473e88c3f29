"""``rwkv-cy pull``: downloads a model from the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, output_options
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_fields, print_json, print_table, print_warning, printable, table
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.errors import HubError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.pull import PullReport, RepositoryReport

__all__ = ["add_parser"]

_SHA256_DIGITS = 64


def add_parser(commands: Subparsers) -> None:
    """Add ``pull`` to the command's parser."""
    parser = commands.add_parser(
        "pull",
        parents=[common_options()],
        description="Download a model into the hub's cache, which other programs share, and print its path. Every "
        "download is compared with its hash; an interrupted one continues where it ended; what the cache has is not "
        "downloaded again. Tokens, mirrors and offline mode are those of huggingface_hub (HF_TOKEN, HF_ENDPOINT, "
        "HF_HUB_OFFLINE, HF_HOME). With --quiet, only the path is printed.",
        examples=[
            "rwkv-cy pull rwkv7-g1-0.1b",
            "rwkv-cy pull hf:BlinkDL/rwkv7-g1 --list",
            "rwkv-cy pull hf:BlinkDL/rwkv7-g1 --file '*0.1b*'",
        ],
    )
    parser.add_argument(
        "source", metavar="NAME", help="hf:owner/name[/file][@revision], a URL of the hub, or the name of a known model"
    )
    parser.add_argument(
        "--file",
        dest="files",
        action="append",
        default=[],
        metavar="PATTERN",
        help="take the file or folder that matches, as '*0.1b*'; may be repeated: one of them has to match",
    )
    parser.add_argument("--all", dest="every", action="store_true", help="take everything that matches")
    parser.add_argument("--revision", metavar="NAME", help="a branch, tag or commit (default: main)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--into", type=Path, metavar="FOLDER", help="put the files into FOLDER instead of the cache")
    where.add_argument("--to", type=Path, metavar="PATH", help="write the file, or the folder, at PATH")
    where.add_argument("--list", action="store_true", help="list what matches, with sizes; download nothing")
    parser.add_argument("--force", action="store_true", help="replace other files at FOLDER or PATH")
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.pull import list_repository, pull

    try:
        if arguments.list:
            _print_list(list_repository(arguments.source, arguments.files, revision=arguments.revision), arguments.json)
            return ExitCode.OK
        bar = progress_bar(printable(arguments.source), not arguments.no_progress)
        with bar as progress:
            report = pull(
                arguments.source,
                arguments.files,
                revision=arguments.revision,
                into=arguments.into,
                to=arguments.to,
                every=arguments.every,
                overwrite=arguments.force,
                progress=progress,
            )
    except HubError as error:
        _print_choice(error)
        raise
    except KeyboardInterrupt:
        print("rwkv-cy: what has arrived is kept: the same command continues there", file=sys.stderr)
        raise
    if arguments.json:
        print_json(report.to_dict())
    elif arguments.quiet:
        print(report.path)
    else:
        _print_report(report)
    return ExitCode.OK


def _print_choice(error: HubError) -> None:
    """Print the files to choose from on standard error."""
    if len(error.files) > 1:
        rows = [(name, byte_size(size)) for name, size in error.files]
        print("\n".join(table(("name", "size"), rows, right=("size",))), file=sys.stderr)


def _print_list(report: RepositoryReport, as_json: bool) -> None:
    if report.unsafe:
        print_warning(f"{report.name}: {report.unsafe} files have names that are not safe paths; they are left out")
    if as_json:
        print_json(report.to_dict())
        return
    rows = [(model.label, byte_size(model.size), str(len(model.files))) for model in report.models]
    print_table(("name", "size", "files"), rows, right=("size", "files"))
    print()
    print(f"commit {report.commit}")


def _print_report(report: PullReport) -> None:
    count, weights = len(report.files), report.files[0]
    downloaded = (
        f"{byte_size(report.downloaded)}, compared with its hash" if report.downloaded else "nothing: it is here"
    )
    print_fields(
        {
            "model": str(report.name),
            "commit": report.commit,
            "kind": report.kind,
            "files": f"{count} ({byte_size(report.size)})",
            **({"sha256": weights.digest} if count == 1 and len(weights.digest) == _SHA256_DIGITS else {}),
            "downloaded": downloaded,
            "path": str(report.path),
        }
    )
