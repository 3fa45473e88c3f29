"""Export of a large model file to every format: anonymous memory, and time compared with copying the model file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.checkpoints import cached_model
from benchmarks.file_costs import Command, options, report_of
from rwkv_cy.formats.writers import EXPORT_FORMATS


def commands(source: Path, folder: Path, formats: Sequence[str]) -> Iterator[Command]:
    """Yield an export for each ``NAME`` or ``NAME:DTYPE``."""
    for wanted in formats:
        name, _, dtype = wanted.partition(":")
        target = folder / f"exported-{name}"
        words = [sys.executable, "-m", "rwkv_cy", "export", "--tokenizer", "none", "--format", name]
        words += ["--dtype", dtype] if dtype else []
        yield Command(wanted, (*words, str(source), str(target)), source, target)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_export", description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT[:TYPE]", help="default: all formats, types kept")
    options(parser)
    arguments = parser.parse_args()
    source = cached_model(arguments.shape, arguments.dtype, arguments.folder)
    wanted = arguments.formats or list(EXPORT_FORMATS)
    notes = ["A format may convert: .st and quantized types recompute every number."]
    report = report_of("Export", commands(source, arguments.folder, wanted), arguments, notes)
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
