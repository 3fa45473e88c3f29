"""Conversion of a large checkpoint: anonymous memory, and time compared with copying the file."""

from __future__ import annotations

import argparse
import mmap
import os
import random
import sys
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_checkpoint
from benchmarks.processes import Run, run
from benchmarks.report import Report, median, ratio

#: Limits of a conversion.
_MAX_ANONYMOUS, _MAX_RATIO = 150e6, 1.3
#: Free memory to provide, as a multiple of the source: for its copy, and for the page cache.
_SPARE = 2


def measure(source: Path, target: Path, rounds: int) -> dict[str, dict[str, list[Run]]]:
    """Convert and copy `source` alternately, with it in the page cache and without.

    Each run finds no file at `target`, nothing left to be written, and free memory that is really there: under a
    hypervisor that takes free memory back, getting it again costs several times what a copy does. The order changes
    from round to round.
    """
    shell = ("/bin/sh", "-c")
    converting = (sys.executable, "-m", "rwkv_cy", "convert", "--tokenizer", "none", str(source), str(target))
    commands = {
        "copy": ("cp", "--reflink=never", str(source), str(target)),
        "copy and fsync": (*shell, 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", str(source), str(target)),
        "convert --dry-run": (*converting, "--dry-run"),
        "convert": converting,
    }
    found: dict[str, dict[str, list[Run]]] = {cache: {name: [] for name in commands} for cache in ("warm", "cold")}
    order = random.Random(0)
    for _ in range(rounds):
        for cache, runs in found.items():
            for name in order.sample(list(commands), len(commands)):
                target.unlink(missing_ok=True)
                os.sync()
                _prepare_cache(source, cache)
                _take_and_free(_SPARE * source.stat().st_size)
                runs[name].append(run(commands[name], sample=name == "convert"))
    target.unlink(missing_ok=True)
    return found


def _take_and_free(size: int) -> None:
    """Allocate `size` bytes of memory and free them, so that the system has them available."""
    mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def _prepare_cache(path: Path, cache: str) -> None:
    """Load the whole file into the page cache, or evict all of it."""
    with path.open("rb", buffering=0) as file:
        if cache == "cold":
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_convert", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="430m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoint and what is written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = cached_checkpoint(arguments.shape, arguments.dtype, arguments.folder)
    runs = measure(source, arguments.folder / "converted", arguments.rounds)
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
