"""Export of a large model file to every format: anonymous memory, and time compared with copying the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model
from benchmarks.file_costs import Command, copies, measure
from benchmarks.report import Report, median, ratio
from rwkv_cy.formats.writers import EXPORT_FORMATS

#: Limits of an export that recomputes nothing.
_MAX_ANONYMOUS, _MAX_RATIO = 150e6, 1.5


def commands(source: Path, folder: Path, formats: Sequence[str]) -> dict[str, Command]:
    """Return what is measured: the copies, and an export for each ``NAME`` or ``NAME:DTYPE``."""
    found = copies(source, folder / "exported")
    for wanted in formats:
        name, _, dtype = wanted.partition(":")
        target = folder / f"exported-{name}"
        words = [sys.executable, "-m", "rwkv_cy", "export", "--tokenizer", "none", "--format", name]
        words += ["--dtype", dtype] if dtype else []
        found[wanted] = Command((*words, str(source), str(target)), target, sample=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_export", description=__doc__)
    parser.add_argument("formats", nargs="*", metavar="FORMAT[:TYPE]", help="default: all formats, types kept")
    parser.add_argument("--shape", choices=SHAPES, default="7-0.4b", help="RWKV-7 runs in every format")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of the model file")
    parser.add_argument("--cache", choices=("warm", "cold"), nargs="+", default=["warm", "cold"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the model file and what is written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = cached_model(arguments.shape, arguments.dtype, arguments.folder)
    measured = commands(source, arguments.folder, arguments.formats or list(EXPORT_FORMATS))
    runs = measure(source, measured, arguments.rounds, arguments.cache)
    size = source.stat().st_size
    report = Report(
        f"Export of RWKV {arguments.shape} {arguments.dtype}, a model file of {size / 1e9:.2f} GB",
        ("", "page cache", "ratio to copy and fsync", "median, s", "anonymous memory at its peak, MB"),
        values={
            "bytes": size,
            "limits": {"anonymous_bytes": _MAX_ANONYMOUS, "ratio to copy and fsync": _MAX_RATIO},
            "page cache": {},
        },
        notes=[
            f"Medians of {arguments.rounds} rounds, alternating; ratios within a round.",
            "An export ends with the files on the disk (fsync): copy and fsync does the same.",
            "Cold: the model file has to come from the disk.",
            "A format may convert: .st and quantized types recompute every number.",
            "Before each run, twice the size of the model file was taken from the system as memory and freed.",
            f"Limits: below {_MAX_ANONYMOUS / 1e6:.0f} MB; {_MAX_RATIO} times copy and fsync, unless recomputed.",
        ],
    )
    for cache, found in runs.items():
        seconds = {name: [one.seconds for one in taken] for name, taken in found.items()}
        ratios = {name: ratio(taken, seconds["copy and fsync"]) for name, taken in seconds.items()}
        anonymous = {name: max(one.anonymous_bytes for one in taken) for name, taken in found.items()}
        report.values["page cache"][cache] = {"seconds": seconds, "ratios": ratios, "anonymous_bytes": anonymous}
        for name, taken in seconds.items():
            memory = f"{anonymous[name] / 1e6:.0f}" if anonymous[name] else ""
            report.rows.append((name, cache, f"{ratios[name]:.2f}", f"{median(taken):.2f}", memory))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
