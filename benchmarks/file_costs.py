"""What writing large files costs: a command that reads a model and writes another, beside a copy of what it reads."""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES
from benchmarks.processes import Run, run
from benchmarks.report import Report, median, ratio

__all__ = ["CACHES", "Command", "Costs", "files_of", "measure", "options", "report_of"]

CACHES = ("warm", "cold")
#: Free memory to provide, as a multiple of the source: for its copy, and for the page cache.
_SPARE = 2
_COPY = 'cp -r --reflink=never "$1" "$2" && find "$2" -type f -exec sync {} +'
#: Limits of a command that recomputes nothing.
_MAX_ANONYMOUS, _MAX_RATIO = 150e6, 1.5


@dataclass(frozen=True)
class Command:
    """A command that reads a file or a folder and writes another.

    Attributes
    ----------
    label : str
    words : tuple of str
    source : Path
    target : Path
        Removed before each run.
    """

    label: str
    words: tuple[str, ...]
    source: Path
    target: Path


@dataclass(frozen=True)
class Costs:
    """Runs of a command, and of a copy of its source with fsync, alternating."""

    command: list[Run]
    copy: list[Run]

    @property
    def ratio(self) -> float:
        """Time of the command over that of the copy: the median of the rounds."""
        return ratio([one.seconds for one in self.command], [one.seconds for one in self.copy])

    @property
    def anonymous_bytes(self) -> int:
        """The most anonymous memory that the command was seen with."""
        return max(one.anonymous_bytes for one in self.command)


def measure(command: Command, rounds: int, cache: str) -> Costs:
    """Run a command and a copy alternately, with the source in the page cache or not.

    Each run finds nothing at its target, nothing left to be written, and free memory that is really there: under a
    hypervisor that takes free memory back, getting it again costs several times what a copy does. The order changes
    from round to round.
    """
    costs = Costs([], [])
    copy = ("/bin/sh", "-c", _COPY, "sh", str(command.source), str(command.target))
    runs = [(command.words, costs.command), (copy, costs.copy)]
    order = random.Random(0)
    for _ in range(rounds):
        for words, found in order.sample(runs, len(runs)):
            _remove(command.target)
            os.sync()
            for file in files_of(command.source):
                _prepare_cache(file, cache)
            _take_and_free(_SPARE * _size(command.source))
            found.append(run(words, sample=found is costs.command))
            _remove(command.target)
    return costs


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options that these benchmarks share."""
    parser.add_argument("--shape", choices=SHAPES, default="7-0.4b", help="RWKV-7 exists in every format")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of the source")
    parser.add_argument("--cache", choices=CACHES, nargs="+", default=CACHES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the sources and what is written")
    parser.add_argument("--json", action="store_true")


def report_of(title: str, commands: Iterable[Command], arguments: argparse.Namespace, notes: Sequence[str]) -> Report:
    """Measure all commands, and return the table."""
    report = Report(
        f"{title}: RWKV {arguments.shape} {arguments.dtype}",
        ("", "page cache", "ratio to copy and fsync", "median, s", "copy and fsync, s", "source, GB", "anonymous, MB"),
        values={"limits": {"anonymous_bytes": _MAX_ANONYMOUS, "ratio": _MAX_RATIO}, "rows": []},
        notes=[
            f"Medians of {arguments.rounds} rounds, alternating with a copy of the source; ratios within a round.",
            "Every command ends with its files on the disk (fsync), as the copy does.",
            "Anonymous: the most memory that the process had allocated (RssAnon), sampled every 2 ms.",
            "Cold: the source has to come from the disk.",
            "Before each run, twice the size of the source was taken from the system as memory and freed.",
            f"Limits: {_MAX_ANONYMOUS / 1e6:.0f} MB; {_MAX_RATIO} times copy and fsync, unless numbers are recomputed.",
            *notes,
        ],
    )
    for command in commands:
        for cache in arguments.cache:
            costs = measure(command, arguments.rounds, cache)
            seconds = [[one.seconds for one in runs] for runs in (costs.command, costs.copy)]
            size = _size(command.source)
            report.rows.append(
                (
                    command.label,
                    cache,
                    f"{costs.ratio:.2f}",
                    *(f"{median(taken):.2f}" for taken in seconds),
                    f"{size / 1e9:.2f}",
                    f"{costs.anonymous_bytes / 1e6:.0f}",
                )
            )
            report.values["rows"].append(
                {"label": command.label, "cache": cache, "bytes": size, "ratio": costs.ratio}
                | {"seconds": seconds[0], "copy_seconds": seconds[1], "anonymous_bytes": costs.anonymous_bytes}
            )
    return report


def files_of(source: Path) -> Iterator[Path]:
    """Yield the files of a folder, or a file itself."""
    yield from (path for path in source.rglob("*") if path.is_file()) if source.is_dir() else (source,)


def _size(source: Path) -> int:
    return sum(path.stat().st_size for path in files_of(source))


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


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
