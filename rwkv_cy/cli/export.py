"""``rwkv-cy export``: writes a model in a format of another program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import EXPORT_FORMATS, EXPORT_LAYOUTS, common_options, output_options, size
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, config_fields, print_fields, print_json, print_table, print_warning, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.source_hash import hash_ahead
from rwkv_cy.cli.targets import check_export_target

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.export import ExportReport
    from rwkv_cy.toolkit.export_plan import ExportedTensor, ExportPlan

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``export`` to the command's parser."""
    parser = commands.add_parser(
        "export",
        parents=[common_options()],
        description="Write a model file, or a checkpoint of any format that is read, in a format of another program. "
        "The suffix of TARGET tells the format: .pth (BlinkDL's names), .safetensors, .st (web-rwkv), .gguf "
        "(llama.cpp), .bin (rwkv.cpp); a name without one, or with a slash at its end, means a Hugging Face folder.",
        examples=[
            "rwkv-cy export model.h5 model.safetensors --dtype bf16",
            "rwkv-cy export goose.pth goose-q8.gguf --dtype q8_0",
            "rwkv-cy export model.h5 folder/ --shard-size 2G",
        ],
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a model file, a checkpoint, or a folder of one")
    parser.add_argument("target", metavar="TARGET", help="the file or the folder to write")
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        metavar="NAME",
        help=f"the format, if the suffix of TARGET does not tell it: {', '.join(EXPORT_FORMATS)}",
    )
    parser.add_argument(
        "--layout",
        choices=EXPORT_LAYOUTS,
        metavar="NAME",
        help=f"names and shapes of the tensors, if the format has several: {', '.join(EXPORT_LAYOUTS[:4])}",
    )
    parser.add_argument(
        "--dtype",
        default="keep",
        metavar="TYPE",
        help="type of matrices, head and embedding, one of the format's (default: keep; f16 for weights that are "
        "quantized in SOURCE)",
    )
    parser.add_argument(
        "--tokenizer",
        default="auto",
        metavar="auto|none|bytes|world|FILE",
        help="the tokenizer, for formats that store one (default: auto)",
    )
    parser.add_argument(
        "--shard-size",
        type=size(1_000_000),
        default="5G",
        metavar="BYTES",
        help="most bytes of a file of weights in a folder, as 700M or 2GiB (default: 5G)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, with sizes; write nothing")
    parser.add_argument("--force", action="store_true", help="replace a TARGET of the same format")
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    check_export_target(arguments.source, Path(arguments.target), force=arguments.force, dry_run=arguments.dry_run)
    options = {
        "dtype": None if arguments.dtype == "keep" else arguments.dtype,
        "format": arguments.format,
        "layout": arguments.layout,
        "tokenizer": arguments.tokenizer,
        "shard_size": arguments.shard_size,
    }
    if arguments.dry_run:
        from rwkv_cy.toolkit.export import plan_export

        _show_plan(plan_export(arguments.source, arguments.target, **options), arguments)
        return ExitCode.OK
    bar = progress_bar(printable(Path(arguments.target).name), not arguments.no_progress)
    with hash_ahead(arguments.source) as source_hash, bar as progress:
        from rwkv_cy.toolkit.export import export

        report = export(
            arguments.source,
            arguments.target,
            overwrite=arguments.force,
            progress=progress,
            source_hash=source_hash,
            **options,
        )
    for warning in report.warnings:
        print_warning(warning)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        _print_report(report)
    return ExitCode.OK


def _outline(plan: ExportPlan) -> dict[str, str]:
    """Return the fields that plan and report share."""
    from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer

    return {
        "source": f"{plan.source} ({plan.source_format})",
        "target": str(plan.target),
        "format": plan.format,
        "layout": plan.layout,
        "architecture": plan.model.label,
        **config_fields(plan.model.config),
        **({"tokenizer": describe_tokenizer(plan.tokenizer)} if plan.writer.stores_tokenizer else {}),
    }


def _show_plan(plan: ExportPlan, arguments: argparse.Namespace) -> None:
    warnings = list(plan.warnings)
    if plan.replaces and not arguments.force:
        warnings.append(f"{plan.target} already exists; --force replaces it, if it is of the same format")
    for warning in warnings:
        print_warning(warning)
    if arguments.json:
        print_json(plan.to_dict())
        return
    print_fields(
        {
            **_outline(plan),
            "disk needed": f"{byte_size(plan.disk_needed)} ({byte_size(plan.disk_free)} free)",
        }
    )
    print()
    kinds: dict[tuple[str, str, str], list[ExportedTensor]] = {}
    for tensor in plan.tensors:
        kinds.setdefault((tensor.kind, tensor.source_dtype, tensor.dtype), []).append(tensor)
    print_table(
        ("tensors", "kind", "from", "to", "bytes out"),
        [
            (str(len(group)), kind, source, dtype, byte_size(sum(tensor.nbytes for tensor in group)))
            for (kind, source, dtype), group in kinds.items()
        ],
        right=("tensors", "bytes out"),
    )
    print()
    print("dry run: nothing was written")


def _print_report(report: ExportReport) -> None:
    print_fields(
        {
            **_outline(report.plan),
            "tensors": str(len(report.plan.tensors)),
            "size": byte_size(report.size),
            "precision": report.precision,
            "source sha256": report.source_sha256,
        }
    )
