"""The campaign of damage: every truncation and every flipped bit of a small file of every format.

Files are read in a child process whose memory and time are limited, so that a crash or a hang is one problem, and the
next file is read by another child. It reads many files: modules are loaded once, with one thread, and the process in
which "verify" lets HDF5 read a structure is a fork of it.
"""

from __future__ import annotations

import gc
import mmap
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faults.moments import ended, limit_time, run_child
from faults.specimens import Specimen, read_bytes
from faults.table import DamageRow
from rwkv_cy.runtime import set_num_threads
from rwkv_cy.storage.structure import main as print_structure_problems

__all__ = ["damage"]

_MEMORY_BYTES = 1 << 30
#: Of one file.
_CPU_SECONDS, _SECONDS = 20, 1200
#: Of the bytes of tensors, one bit of each so many is flipped, and each time another one.
_NUMBERS_STEP = 8


def _cases(specimen: Specimen, data: bytes, cuts: int | None, flips: int | None) -> list[tuple[str, int]]:
    """Return what is done to the file: at most `cuts` lengths to cut it to, and `flips` numbers of bits to flip."""
    sampled = sorted(specimen.numbers)[::_NUMBERS_STEP]
    bits = [8 * offset + bit for offset in range(len(data)) if offset not in specimen.numbers for bit in range(8)]
    bits += [8 * offset + number % 8 for number, offset in enumerate(sampled)]
    return [
        *(("cut", length) for length in _spread(range(len(data)), cuts)),
        *(("flip", bit) for bit in _spread(sorted(bits), flips)),
    ]


def _spread(items: Sequence[int], most: int | None) -> Sequence[int]:
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
        at, refused, same, slowest, row.seconds = list(shared)[:5]
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
    limit_time(0, 0)
    warnings.simplefilter("ignore")
    set_num_threads(1)
    subprocess.run = _forked  # type: ignore[assignment]
    gc.freeze()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, used + _MEMORY_BYTES))
    for at in range(int(shared.numbers[0]), len(cases)):
        shared.numbers[0] = at
        how, where = cases[at]
        specimen.file.write_bytes(_damaged(data, how, where))
        began = _cpu_seconds()
        limit_time(_CPU_SECONDS, _SECONDS)
        try:
            results = read_bytes(specimen)
        except Exception as error:  # whatever the package lets through is the problem that is looked for
            print(
                f"PROBLEM {specimen.name}: {how} {where}: {type(error).__name__}: {error}".replace("\n", " "),
                flush=True,
            )
            continue
        finally:
            limit_time(0, 0)
        took = _cpu_seconds() - began
        shared.numbers[3] = max(shared.numbers[3], took)
        shared.numbers[4] += took
        shared.numbers[1] += not results
        shared.numbers[2] += bool(results) and results == expected
        wrong = results and any(result not in expected for result in results)
        if wrong and (how == "cut" or specimen.checked):
            print(f"PROBLEM {specimen.name}: {how} {where}: it was read, with another result", flush=True)
        if at % 500 == 0:
            gc.collect()
    shared.numbers[0] = len(cases) - 1
    return 0


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it has waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _forked(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the check of HDF5 objects in a fork of this process, in place of a new interpreter."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            limit_time(_CPU_SECONDS, _SECONDS)
            os.dup2(writing, sys.stdout.fileno())
            print_structure_problems(*command[-3:])
            sys.stdout.flush()
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answer)
