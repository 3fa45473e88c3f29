"""Conversion of a large checkpoint: anonymous memory, and time beside that of copying the file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_checkpoint
from benchmarks.processes import Run, run
from benchmarks.report import Report, median, ratio

#: What conversion has to keep below.
_MAX_ANONYMOUS, _MAX_RATIO = 150e6, 1.3


def measure(source: Path, target: Path, rounds: int) -> dict[str, list[Run]]:
    """Convert and copy `source` alternately, each time to where no file is and with nothing left to be written."""
    shell = ("/bin/sh", "-c")
    commands = {
        "copy": ("cp", "--reflink=never", str(source), str(target)),
        "copy and fsync": (*shell, 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", str(source), str(target)),
        "convert": (sys.executable, "-m", "rwkv_cy", "convert", str(source), str(target)),
    }
    run(("cat", str(source)))  # into the page cache
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            target.unlink(missing_ok=True)
            os.sync()
            found[name].append(run(command, sample=name == "convert"))
    target.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_convert", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="430m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoint and what is written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = cached_checkpoint(arguments.shape, arguments.dtype, arguments.folder)
    runs = measure(source, arguments.folder / "converted", arguments.rounds)
    seconds = {name: [one.seconds for one in found] for name, found in runs.items()}
    anonymous = max(one.anonymous_bytes for one in runs["convert"])
    ratios = {name: ratio(seconds["convert"], seconds[name]) for name in seconds}
    size = source.stat().st_size
    report = Report(
        f"Conversion of RWKV-4 {arguments.shape} {arguments.dtype}, .pth of {size / 1e9:.2f} GB, page cache warm",
        ("", "convert takes, as a ratio", "median, s", "anonymous memory at its peak, MB"),
        values={
            "bytes": size,
            "seconds": seconds,
            "ratios": ratios,
            "anonymous_bytes": anonymous,
            "limits": {"anonymous_bytes": _MAX_ANONYMOUS, "copy and fsync": _MAX_RATIO},
        },
        notes=[
            f"Medians of {arguments.rounds} rounds, alternating; ratios within a round.",
            "Conversion ends with the file on the disk (fsync): copy and fsync does the same.",
            f"To be kept: below {_MAX_ANONYMOUS / 1e6:.0f} MB, at most {_MAX_RATIO} times copy and fsync.",
        ],
    )
    for name, taken in seconds.items():
        own = name == "convert"
        memory = f"{anonymous / 1e6:.0f}" if own else ""
        report.rows.append((name, "" if own else f"{ratios[name]:.2f}", f"{median(taken):.2f}", memory))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
