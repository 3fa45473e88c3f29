"""Conversion of a large model from every format: anonymous memory, and time compared with copying the source."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.checkpoints import cached_checkpoint, cached_model
from benchmarks.file_costs import Command, options, report_of
from rwkv_cy.formats.writers import EXPORT_FORMATS
from rwkv_cy.toolkit.export import export


def commands(shape: str, dtype: str, folder: Path, formats: Sequence[str]) -> Iterator[Command]:
    """Yield a conversion from each format; its source is written first."""
    for name in formats:
        source, target = source_of(shape, dtype, folder, name), folder / "converted"
        words = (sys.executable, "-m", "rwkv_cy", "convert", "--tokenizer", "none", str(source), str(target))
        yield Command(name, words, source, target)


def source_of(shape: str, dtype: str, folder: Path, name: str) -> Path:
    """Return the model in this format; exports it if it does not exist."""
    if name == "pth":
        return cached_checkpoint(shape, dtype, folder)
    path = folder / f"{shape}-{dtype}-{name}"
    if not path.exists():
        export(cached_model(shape, dtype, folder), path, format=name, tokenizer="none")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_convert", description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="default: all")
    options(parser)
    arguments = parser.parse_args()
    wanted = arguments.formats or list(EXPORT_FORMATS)
    if unknown := set(wanted) - set(EXPORT_FORMATS):
        parser.error(f"{min(unknown)}: expected one of {', '.join(EXPORT_FORMATS)}")
    measured = commands(arguments.shape, arguments.dtype, arguments.folder, wanted)
    notes = ["A warm conversion cannot be faster than the SHA-256 of the source, on one core."]
    report_of("Conversion", measured, arguments, notes).print(as_json=arguments.json)


if __name__ == "__main__":
    main()
