"""``rwkv-cy shard`` and ``rwkv-cy join``: a file in parts, for file systems with limits."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import common_options, new_file, output_options, size
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_fields, print_json, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.targets import refuse_swapped
from rwkv_cy.errors import ConfigError

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers

__all__ = ["add_parser"]

_DEFAULT = "4G"


def add_parser(commands: Subparsers) -> None:
    """Add ``shard`` and ``join`` to the command's parser."""
    parser = commands.add_parser(
        "shard",
        parents=[common_options()],
        description="Cut a file of any kind into parts, and write a list of them with their SHA-256; join puts them "
        "together again. For shards that programs open as they are, export to a Hugging Face folder.",
        examples=["rwkv-cy shard model.h5 usb/ --size 1M"],
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the file")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the parts are written")
    parser.add_argument(
        "--size",
        type=size(1),
        default=_DEFAULT,
        metavar="BYTES",
        help=f"most bytes of a part, as 700M or 2GiB (default: {_DEFAULT}, which FAT32 can hold)",
    )
    output_options(parser)
    parser.set_defaults(run=_shard)
    parser = commands.add_parser(
        "join",
        parents=[common_options()],
        description="Join the parts that shard wrote, and check every byte against their SHA-256.",
        examples=["rwkv-cy join usb/model.h5.parts.json copy.h5"],
    )
    parser.add_argument(
        "parts", metavar="PARTS", type=Path, help="the list NAME.parts.json, any of the parts, or their folder"
    )
    parser.add_argument("target", metavar="TARGET", type=new_file, help="the file to write")
    output_options(parser)
    parser.set_defaults(run=_join)


def _shard(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.parts import shard

    refuse_swapped(arguments.file, arguments.folder, "FILE and FOLDER")
    bar = progress_bar(printable(arguments.file.name), not arguments.no_progress)
    with bar as progress:
        try:
            report = shard(arguments.file, arguments.folder, part_size=arguments.size, progress=progress)
        except ConfigError as error:  # the option is not called as the argument is
            raise ConfigError(re.sub(r"^part_size:", "--size:", str(error))) from error
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_fields(
            {
                "file": f"{report.source} ({byte_size(report.size)})",
                "parts": f"{len(report.parts)}, {report.parts[0].name} first",
                "list": str(report.list),
                "sha256": report.sha256,
            }
        )
    return ExitCode.OK


def _join(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.parts import join

    refuse_swapped(arguments.parts, arguments.target, "PARTS and TARGET")
    bar = progress_bar(printable(arguments.target.name), not arguments.no_progress)
    with bar as progress:
        report = join(arguments.parts, arguments.target, progress=progress)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_fields(
            {
                "target": f"{report.target} ({byte_size(report.size)})",
                "parts": str(report.parts),
                "sha256": f"{report.sha256} (as listed)",
            }
        )
    return ExitCode.OK
