"""A checkpoint beside its eight bits in a model file, GGUF and rwkv.cpp's format: bytes, and differences by tensor.

Each file is written by the package, and compared with the checkpoint as ``rwkv-cy diff`` does. The tensors of one name
in all layers make one row: the mean is that of all their numbers, the largest that of the layer that differs most.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.checkpoints import FOLDER, SHAPES, cached_checkpoint
from benchmarks.report import Report
from rwkv_cy import convert, diff, export
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.demo import demo_model_path
from rwkv_cy.toolkit.diff import DiffReport, TensorDifference

#: Suffix and type of each file, by its title; the checkpoint itself is the first.
FILES: Mapping[str, tuple[str, str]] = {
    "model file, q8": (".h5", "q8"),
    "GGUF, Q8_0": (".gguf", "q8_0"),
    "rwkv.cpp, Q8_0": (".bin", "q8_0"),
}
#: Tensors that layer 0 of RWKV-7 has in some checkpoints and does not use; GGUF files leave them out.
UNUSED = {f"blocks.0.att.{name}" for name in ("v0", "v1", "v2")}


@dataclass(frozen=True)
class Row:
    """Tensors of one name in all layers, in one file.

    Attributes
    ----------
    name : str
        Canonical name, with ``*`` in place of the layer.
    dtype : str
        The type in the file, or types.
    tensors, nbytes : int
        How many there are, and their bytes in the file.
    mean : float
        Mean absolute difference, relative to the largest number of the tensor.
    largest : float
        Largest difference, relative to the largest number of the tensor.
    """

    name: str
    dtype: str
    tensors: int
    nbytes: int
    mean: float
    largest: float


def write_files(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """Write the checkpoint in eight bits in each format, and return the files by their titles."""
    written = {}
    for title, (suffix, dtype) in FILES.items():
        path = folder / f"{checkpoint.stem}-{dtype}{suffix}"
        work = convert if suffix == ".h5" else export
        work(checkpoint, path, dtype=dtype, tokenizer="none", overwrite=True)
        written[title] = path
    return written


def rows_of(checkpoint: Path, path: Path) -> list[Row]:
    """Compare a file with the checkpoint, and return a row for each name; it may lack :data:`UNUSED`."""
    report = diff(checkpoint, path)
    missing, added = report.only_in
    if added or any(tensor.difference is None for tensor in report.tensors):
        raise SystemExit(f"{path}: expected the tensors of {checkpoint}, got other names or shapes: {added}")
    if unexpected := set(missing) - UNUSED:
        raise SystemExit(f"{path}: expected the tensors of {checkpoint}, got a file without {', '.join(unexpected)}")
    with open_source(path) as source:
        nbytes = {name: source.info(name).source_nbytes for name in source.names()}
    return [_row(name, tensors, nbytes) for name, tensors in _by_name(report).items()]


def _by_name(report: DiffReport) -> dict[str, list[TensorDifference]]:
    found: dict[str, list[TensorDifference]] = {}
    for tensor in sorted(report.tensors, key=lambda one: one.name):
        parts = ["*" if part.isdecimal() else part for part in tensor.name.split(".")]
        found.setdefault(".".join(parts), []).append(tensor)
    return found


def _row(name: str, tensors: Sequence[TensorDifference], nbytes: Mapping[str, int]) -> Row:
    differences = [tensor.difference for tensor in tensors if tensor.difference is not None]
    numbers = sum(one.size for one in differences)
    return Row(
        name=name,
        dtype=", ".join(dict.fromkeys(tensor.dtypes[1] for tensor in tensors)),
        tensors=len(tensors),
        nbytes=sum(nbytes.get(tensor.name, 0) for tensor in tensors),
        mean=sum(one.mean / one.scale * one.size for one in differences if one.differing) / numbers,
        largest=max(one.largest_relative for one in differences),
    )


def checkpoint_of(name: str, folder: Path) -> Path:
    """Return the demo model, the synthetic checkpoint of a shape in bf16, or a file of this path."""
    if name == "demo":
        return demo_model_path()
    return cached_checkpoint(name, "bf16", folder) if name in SHAPES else Path(name)


def report_of(checkpoint: Path, files: Mapping[str, Path]) -> Report:
    """Compare the files with the checkpoint, side by side: a row for each name that differs in any of them."""
    found = {title: {row.name: row for row in rows_of(checkpoint, path)} for title, path in files.items()}
    sizes = [f"{title} ({path.stat().st_size:,} bytes)" for title, path in files.items()]
    report = Report(
        f"{checkpoint.name} ({checkpoint.stat().st_size:,} bytes) beside {'; '.join(sizes)}",
        ("tensor", "count", *(f"{title}: {what}" for title in files for what in ("bytes", "mean", "largest"))),
        notes=["Mean and largest difference: relative to the largest number of the tensor, in 1/1000."],
    )
    first = next(iter(found.values()))
    for name in first:
        rows = [by_name[name] for by_name in found.values()]
        if any(row.largest for row in rows):
            report.rows.append((name, str(first[name].tensors), *(cell for row in rows for cell in _cells(row))))
    equal = [name for name in first if not any(by_name[name].largest for by_name in found.values())]
    report.notes.append(f"Equal in all of them: {', '.join(equal) or 'none'}.")
    report.values = {title: [asdict(row) for row in by_name.values()] for title, by_name in found.items()}
    return report


def _cells(row: Row) -> tuple[str, str, str]:
    return f"{row.nbytes:,} ({row.dtype})", f"{1000 * row.mean:.3g}", f"{1000 * row.largest:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_diff", description=__doc__)
    parser.add_argument("checkpoints", nargs="*", default=["demo", "7-0.1b"], metavar="demo|SHAPE|FILE")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints that are made")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = checkpoint_of(name, arguments.folder)
            report_of(checkpoint, write_files(checkpoint, Path(folder))).print(as_json=arguments.json)
            print()


if __name__ == "__main__":
    main()
