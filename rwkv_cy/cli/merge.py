"""``rwkv-cy merge``: merges an adapter into its model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.arguments import (
    DTYPES,
    PACKED_DTYPE,
    QUANTIZED_DTYPES,
    common_options,
    dtype_name,
    new_file,
    output_options,
    real,
)
from rwkv_cy.cli.convert import outline, print_plan
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, print_fields, print_json, print_warning, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.targets import check_model_target

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.merge import MergePlan, MergeReport

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add ``merge`` to the command's parser."""
    parser = commands.add_parser(
        "merge",
        parents=[common_options()],
        description="Merge an adapter into its model, and write one model file; export writes other formats from it. "
        "The names and shapes of the adapter's tensors tell its kind.",
        examples=[
            "rwkv-cy merge model.pth lora.pth merged.h5 --alpha 32",
            "rwkv-cy merge model.h5 pissa.pth merged.h5 --init init_pissa.pth",
            "rwkv-cy merge goose.pth state.pth tuned.h5",
        ],
    )
    parser.add_argument("base", metavar="BASE", type=Path, help="the model, or a checkpoint of any format that is read")
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="the adapter, in any format that is read")
    parser.add_argument("target", metavar="TARGET", type=new_file, help="the model file to write")
    parser.add_argument("--alpha", type=real(0), metavar="X", help="lora_alpha of the training; required for LoRA")
    parser.add_argument(
        "--init", type=Path, metavar="FILE", help="the initial factors of a PiSSA adapter (init_pissa.pth)"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="a file of tuned states (time_state) to merge beside ADAPTER"
    )
    parser.add_argument(
        "--weight",
        type=real(0),
        default=1.0,
        metavar="X",
        help="share of tensors that were trained as a whole: 1 replaces those of BASE (default), 0.5 takes the mean",
    )
    parser.add_argument(
        "--bone-blocks",
        choices=("rows", "columns"),
        help="which blocks the square matrices of a bone file from before DiSHA belong to, if the file is refused as "
        "ambiguous",
    )
    parser.add_argument(
        "--dtype",
        type=dtype_name,
        choices=["keep", *DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES],
        default="keep",
        help="type of matrices and embedding, as for convert (default: keep)",
    )
    parser.add_argument(
        "--tokenizer", default="auto", metavar="auto|none|bytes|world|FILE", help="the tokenizer, as for convert"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, with sizes; write nothing")
    parser.add_argument(
        "--force", action="store_true", help="replace a model file at TARGET; requantize changed matrices"
    )
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rwkv_cy.toolkit.merge import merge, plan_merge

    options: dict[str, Any] = {
        "alpha": arguments.alpha,
        "init": arguments.init,
        "state": arguments.state,
        "weight": arguments.weight,
        "bone_blocks": arguments.bone_blocks,
        "dtype": None if arguments.dtype == "keep" else arguments.dtype,
        "tokenizer": arguments.tokenizer,
        "overwrite": arguments.force,
        "requantize": arguments.force,
    }
    check_model_target(
        arguments.base, arguments.target, force=arguments.force, dry_run=arguments.dry_run, names="BASE and TARGET"
    )
    paths = arguments.base, arguments.adapter, arguments.target
    if arguments.dry_run:
        plan = plan_merge(*paths, **options)
        if arguments.json:
            print_json(plan.to_dict())
        else:
            print_plan(plan.conversion, arguments.force, _changes(plan))
        return ExitCode.OK
    bar = progress_bar(printable(arguments.target.name), not arguments.no_progress)
    with bar as progress:
        report = merge(*paths, **options, progress=progress)
    for warning in report.conversion.warnings:
        print_warning(warning)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        _print_report(report)
    return ExitCode.OK


def _changes(plan: MergePlan) -> dict[str, str]:
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(plan.counts.items()))
    return {"adapter": str(plan.adapter), "changed": counts or "nothing"}


def _print_report(report: MergeReport) -> None:
    conversion = report.conversion
    print_fields(
        {
            **outline(conversion.plan),
            **_changes(report.plan),
            "size": byte_size(conversion.size),
            "sha256": f"{conversion.source_sha256} (base and adapter)",
            "fingerprint": conversion.fingerprint,
        }
    )
