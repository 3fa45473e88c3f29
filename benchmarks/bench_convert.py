"""Conversion of a large checkpoint: anonymous memory, and time compared with copying the file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_checkpoint
from benchmarks.file_costs import Command, copies, measure
from benchmarks.report import Report, median, ratio

#: Limits of a conversion.
_MAX_ANONYMOUS, _MAX_RATIO = 150e6, 1.3


def commands(source: Path, target: Path) -> dict[str, Command]:
    """Return what is measured."""
    converting = (sys.executable, "-m", "rwkv_cy", "convert", "--tokenizer", "none", str(source), str(target))
    return {
        **copies(source, target),
        "convert --dry-run": Command((*converting, "--dry-run"), target),
        "convert": Command(converting, target, sample=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_convert", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="430m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoint and what is written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = cached_checkpoint(arguments.shape, arguments.dtype, arguments.folder)
    runs = measure(source, commands(source, arguments.folder / "converted"), arguments.rounds)
    size = source.stat().st_size
    report = Report(
        f"Conversion of RWKV-4 {arguments.shape} {arguments.dtype}, a .pth of {size / 1e9:.2f} GB",
        ("", "page cache", "convert takes, as a ratio", "median, s", "anonymous memory at its peak, MB"),
        values={
            "bytes": size,
            "limits": {"anonymous_bytes": _MAX_ANONYMOUS, "ratio to copy and fsync": _MAX_RATIO},
            "page cache": {},
        },
        notes=[
            f"Medians of {arguments.rounds} rounds, alternating; ratios within a round.",
            "Conversion ends with the file on the disk (fsync): copy and fsync does the same.",
            "The dry run is Python's start, the imports and the plan: what a conversion takes whatever the size.",
            "Cold: the checkpoint has to come from the disk.",
            "Before each run, twice the size of the checkpoint was taken from the system as memory and freed.",
            f"Limits: below {_MAX_ANONYMOUS / 1e6:.0f} MB, at most {_MAX_RATIO} times copy and fsync.",
        ],
    )
    for cache, found in runs.items():
        seconds = {name: [one.seconds for one in taken] for name, taken in found.items()}
        ratios = {name: ratio(seconds["convert"], taken) for name, taken in seconds.items()}
        anonymous = max(one.anonymous_bytes for one in found["convert"])
        report.values["page cache"][cache] = {"seconds": seconds, "ratios": ratios, "anonymous_bytes": anonymous}
        for name, taken in seconds.items():
            own = name == "convert"
            memory = f"{anonymous / 1e6:.0f}" if own else ""
            report.rows.append((name, cache, "" if own else f"{ratios[name]:.2f}", f"{median(taken):.2f}", memory))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
