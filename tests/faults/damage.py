"""The campaign of damage: every truncation and every flipped bit of a small file of every format.

Files are read in a child process whose memory and time are limited, so that a crash or a hang is one problem, and the
next file is read by another child.
"""

from __future__ import annotations

import gc
import mmap
import resource
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from faults.moments import ended, run_child
from faults.specimens import Specimen, read_bytes
from faults.table import DamageRow

__all__ = ["damage"]

_MEMORY_BYTES = 1 << 30
_SECONDS = 20
_MARGIN = 64


def _cases(specimen: Specimen, data: bytes, cuts: int | None, flips: int | None) -> list[tuple[str, int]]:
    """Return what is done to the file: at most `cuts` lengths to cut it to, and `flips` numbers of bits to flip.

    Of a file that is read in long steps, every byte of its beginning and end is changed, and of the rest a part.
    """
    offsets = list(range(len(data)))
    if specimen.every > 1:
        rng = np.random.default_rng(1)
        some = rng.choice(len(data), min(len(data) // specimen.every, 4000), replace=False)
        offsets = sorted({*range(_MARGIN), *range(len(data) - _MARGIN, len(data)), *map(int, some)})
    if specimen.every > 1:
        bits = [8 * offset + (offset * 5 + 3) % 8 for offset in offsets]
    else:
        bits = [8 * offset + bit for offset in offsets for bit in range(8)]
    return [*(("cut", length) for length in _spread(offsets, cuts)), *(("flip", bit) for bit in _spread(bits, flips))]


def _spread(items: list[int], most: int | None) -> list[int]:
    if most is None or len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def _damaged(data: bytes, how: str, where: int) -> bytes:
    if how == "cut":
        return data[:where]
    return data[: where // 8] + bytes([data[where // 8] ^ 1 << where % 8]) + data[where // 8 + 1 :]


class _Shared:
    """What a child tells its parent, even if it is killed: the case, and counts."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.numbers = np.frombuffer(self._memory, np.float64, 8)

    def __iter__(self) -> Iterator[float]:
        return iter(self.numbers.tolist())


def damage(specimen: Specimen, log: Path, cuts: int | None = None, flips: int | None = None) -> DamageRow:
    """Read the specimen with every kind of damage; at most so many truncations and flipped bits, if given."""
    data = specimen.file.read_bytes()
    cases = _cases(specimen, data, cuts, flips)
    row = DamageRow(specimen.name, len(data))
    row.cuts = sum(how == "cut" for how, _ in cases)
    row.flips = len(cases) - row.cuts
    expected = read_bytes(specimen)
    if specimen.refused == bool(expected):
        row.problems.append(f"{specimen.name}: expected {'no' if specimen.refused else 'some'} results, got {expected}")
    shared = _Shared()
    first = 0
    while first < len(cases):
        shared.numbers[0] = first
        child = ended(run_child(lambda: _read_all(specimen, data, cases, expected, shared), log), log)
        at, refused, same, slowest = list(shared)[:4]
        row.problems += [line for line in child.output.splitlines() if line.startswith("PROBLEM")]
        if child.code != 0:
            how, where = cases[int(at)]
            row.problems.append(
                f"{specimen.name}: {how} {where}: the process ended with {child.code}: {child.output[-1500:]}"
            )
        first = int(at) + 1
    row.refused, row.same, row.slowest = int(refused), int(same), slowest
    specimen.file.write_bytes(data)
    return row


def _read_all(
    specimen: Specimen, data: bytes, cases: list[tuple[str, int]], expected: list[bytes], shared: _Shared
) -> int:
    """Read the file with each damage from case ``shared.numbers[0]`` on."""
    signal.alarm(0)
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, used + _MEMORY_BYTES))
    for at in range(int(shared.numbers[0]), len(cases)):
        shared.numbers[0] = at
        how, where = cases[at]
        specimen.file.write_bytes(_damaged(data, how, where))
        began = time.monotonic()
        signal.alarm(_SECONDS)
        try:
            results = read_bytes(specimen)
        except Exception as error:  # whatever the package lets through is the problem that is looked for
            print(
                f"PROBLEM {specimen.name}: {how} {where}: {type(error).__name__}: {error}".replace("\n", " "),
                flush=True,
            )
            continue
        finally:
            signal.alarm(0)
        shared.numbers[3] = max(shared.numbers[3], time.monotonic() - began)
        shared.numbers[1] += not results
        shared.numbers[2] += bool(results) and results == expected
        wrong = results and any(result not in expected for result in results)
        if wrong and (how == "cut" or specimen.checked):
            print(f"PROBLEM {specimen.name}: {how} {where}: it was read, with another result", flush=True)
        if at % 500 == 0:
            gc.collect()
    shared.numbers[0] = len(cases) - 1
    return 0
