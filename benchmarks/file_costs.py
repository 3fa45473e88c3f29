"""What writing a large file costs: commands that read one file and write another, in the same conditions."""

from __future__ import annotations

import mmap
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Run, run

__all__ = ["Command", "copies", "measure"]

#: Free memory to provide, as a multiple of the source: for its copy, and for the page cache.
_SPARE = 2


@dataclass(frozen=True)
class Command:
    """A command that writes a file or a folder.

    Attributes
    ----------
    words : tuple of str
    target : Path
        What it writes, removed before each run.
    sample : bool, default False
        Whether to watch its memory.
    """

    words: tuple[str, ...]
    target: Path
    sample: bool = False


def copies(source: Path, target: Path) -> dict[str, Command]:
    """Return the commands that everything is compared with."""
    shell = ("/bin/sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", str(source), str(target))
    return {
        "copy": Command(("cp", "--reflink=never", str(source), str(target)), target),
        "copy and fsync": Command(shell, target),
    }


def measure(
    source: Path, commands: Mapping[str, Command], rounds: int, caches: Sequence[str] = ("warm", "cold")
) -> dict[str, dict[str, list[Run]]]:
    """Run the commands alternately, with `source` in the page cache and without.

    Each run finds nothing at its target, nothing left to be written, and free memory that is really there: under a
    hypervisor that takes free memory back, getting it again costs several times what a copy does. The order changes
    from round to round.
    """
    found: dict[str, dict[str, list[Run]]] = {cache: {name: [] for name in commands} for cache in caches}
    order = random.Random(0)
    for _ in range(rounds):
        for cache, runs in found.items():
            for name in order.sample(list(commands), len(commands)):
                command = commands[name]
                _remove(command.target)
                os.sync()
                _prepare_cache(source, cache)
                _take_and_free(_SPARE * source.stat().st_size)
                runs[name].append(run(command.words, sample=command.sample))
                _remove(command.target)
    return found


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
