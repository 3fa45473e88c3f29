"""``rwkv-cy convert``: converts a checkpoint of any supported format to a model file."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy.cli.arguments import (
    DTYPES,
    PACKED_DTYPE,
    QUANTIZED_DTYPES,
    common_options,
    dtype_name,
    new_file,
    output_options,
    type_rule,
)
from rwkv_cy.cli.exit_codes import ExitCode
from rwkv_cy.cli.output import byte_size, config_fields, print_fields, print_json, print_table, print_warning, printable
from rwkv_cy.cli.progress import progress_bar
from rwkv_cy.cli.source_hash import hash_ahead
from rwkv_cy.cli.targets import check_model_target

if TYPE_CHECKING:
    from rwkv_cy.cli.arguments import Subparsers
    from rwkv_cy.toolkit.calibration import Calibration
    from rwkv_cy.toolkit.convert import ConversionReport
    from rwkv_cy.toolkit.plan import ConversionPlan, TensorPlan

__all__ = ["add_options", "add_parser", "carry_out", "outline", "print_plan", "print_report"]


def add_parser(commands: Subparsers) -> None:
    """Add ``convert`` to the command's parser."""
    parser = commands.add_parser(
        "convert",
        parents=[common_options()],
        description="Convert a checkpoint (.pth, .safetensors, .gguf, Hugging Face folder, rwkv.cpp .bin, or a model "
        "file) to one HDF5 model file, which also holds the tokenizer. The source format is recognised by content.",
        examples=[
            "rwkv-cy convert model.pth model.h5",
            "rwkv-cy convert model.pth small.h5 --dtype q8 --keep head.weight=f16",
            "rwkv-cy convert model.pth half.h5 --dtype f16 --dry-run",
        ],
    )
    parser.add_argument(
        "--dtype",
        type=dtype_name,
        choices=["keep", *DTYPES, PACKED_DTYPE, *QUANTIZED_DTYPES],
        default="keep",
        help="type of matrices and embedding; vectors keep their type, and with quantized types and bf12 the embedding "
        "gets 16 bits; low-rank factors keep their type, or get q8 with quantized types; "
        "bf12 is bf16 compressed without loss to 12 bits "
        "(default: keep; f16 if another program quantized the source)",
    )
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``convert`` and ``quantize`` share, except the type."""
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="the checkpoint, a Hugging Face folder, or a model file"
    )
    parser.add_argument("target", metavar="TARGET", type=new_file, help="the model file to write")
    parser.add_argument(
        "--tokenizer",
        default="auto",
        metavar="auto|none|bytes|world|FILE",
        help="the tokenizer to store; FILE is a tokenizer.json, a vocabulary, a model file, a GGUF file, or a "
        "folder with one (default: auto)",
    )
    parser.add_argument(
        "--keep",
        type=type_rule,
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="another type for matrices, head or embedding whose names match, as 'head.weight=f16', or "
        "that of SOURCE for any tensors, as 'blocks.0.*=keep'; may be repeated: the last that matches applies",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, with sizes; write nothing")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a model file at TARGET, but never another file; requantize a quantized SOURCE",
    )
    output_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    report = carry_out(arguments)
    if report is not None and arguments.json:
        print_json(report.to_dict())
    elif report is not None and not arguments.quiet:
        print_report(report)
    return ExitCode.OK


def carry_out(
    arguments: argparse.Namespace, *, measure: bool = False, calibrate: Callable[[], Calibration] | None = None
) -> ConversionReport | None:
    """Convert, and print the warnings; for a dry run, print the plan and return None.

    `calibrate` returns what to calibrate with, and is called after the target has been checked.
    """
    dtype = None if arguments.dtype == "keep" else arguments.dtype
    check_model_target(arguments.source, arguments.target, force=arguments.force, dry_run=arguments.dry_run)
    if arguments.dry_run:
        from rwkv_cy.toolkit.convert import plan_conversion

        plan = plan_conversion(
            arguments.source,
            arguments.target,
            dtype,
            arguments.tokenizer,
            keep=dict(arguments.keep),
            overwrite=arguments.force,
            requantize=arguments.force,
        )
        if arguments.json:
            print_json(plan.to_dict())
        else:
            print_plan(plan, arguments.force)
        return None
    calibration = None if calibrate is None else calibrate()
    bar = progress_bar(printable(arguments.target.name), not arguments.no_progress)
    with hash_ahead(arguments.source) as source_hash, bar as progress:
        from rwkv_cy.toolkit.convert import convert

        report = convert(
            arguments.source,
            arguments.target,
            dtype=dtype,
            keep=dict(arguments.keep),
            tokenizer=arguments.tokenizer,
            overwrite=arguments.force,
            requantize=arguments.force,
            measure=measure,
            calibrate=calibration,
            progress=progress,
            source_hash=source_hash,
        )
    for warning in report.warnings:
        print_warning(warning)
    return report


def outline(plan: ConversionPlan) -> dict[str, str]:
    """Return the fields that plan and report share."""
    from rwkv_cy.architectures import architecture_of
    from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer

    return {
        "source": f"{plan.source} ({plan.source_format})",
        "target": str(plan.target),
        "architecture": architecture_of(plan.config).label,
        **config_fields(plan.config),
        "parameters": f"{plan.num_parameters:,}",
        "tokenizer": describe_tokenizer(plan.tokenizer),
    }


def print_plan(plan: ConversionPlan, force: bool, further: Mapping[str, str] | None = None) -> None:
    """Print what would be done, with `further` fields, and the warnings."""
    warnings = list(plan.warnings)
    if plan.replaces and not force:
        warnings.append(f"{plan.target} already exists; --force replaces it, if it is a model file")
    for warning in warnings:
        print_warning(warning)
    print_fields(
        {
            **outline(plan),
            **(further or {}),
            "bytes in": byte_size(plan.source_nbytes),
            "bytes out": byte_size(plan.nbytes),
            "memory needed": f"{byte_size(plan.memory)} besides the program itself",
            "disk needed": f"{byte_size(plan.disk_needed)} ({byte_size(plan.disk_free)} free)",
        }
    )
    print()
    kinds: dict[tuple[str, str, str], list[TensorPlan]] = {}
    for tensor in plan.tensors:
        kinds.setdefault((tensor.kind, tensor.source_dtype, tensor.dtype), []).append(tensor)
    print_table(
        ("tensors", "kind", "from", "to", "bytes in", "bytes out"),
        [
            (
                str(len(group)),
                kind,
                source_dtype,
                dtype,
                byte_size(sum(tensor.source_nbytes for tensor in group)),
                byte_size(sum(tensor.nbytes for tensor in group)),
            )
            for (kind, source_dtype, dtype), group in kinds.items()
        ],
        right=("tensors", "bytes in", "bytes out"),
    )
    print()
    print("dry run: nothing was written")


def print_report(report: ConversionReport, further: Mapping[str, str] | None = None) -> None:
    """Print what was done, with `further` fields."""
    dtypes = Counter(tensor.dtype for tensor in report.plan.tensors)
    print_fields(
        {
            **outline(report.plan),
            "tensors": ", ".join(f"{count} {dtype}" for dtype, count in sorted(dtypes.items())),
            "size": byte_size(report.size),
            **(further or {}),
            "source sha256": report.source_sha256,
            "fingerprint": report.fingerprint,
        }
    )
