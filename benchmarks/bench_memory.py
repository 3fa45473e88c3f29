"""Decode from each kind of memory that can hold the weights: mapped files, and memory of the process."""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.report import Report, median, ratio
from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.tensors.arena import Arena
from rwkv_cy.toolkit.bench import Measurement, Round

_DECODED = 8
#: Linux's number; Python does not define it.
_MADV_POPULATE_READ = 22
#: Block sizes of the package's writer and of typical copies. From 1 MiB on, Linux backs a write with large pages.
_WRITE_BYTES = 256 << 10


def _resident(path: Path) -> LanguageModel:
    return load(path, mmap=False)


def _advised(advice: int) -> Callable[[Path], LanguageModel]:
    """Return a function that maps a file and applies `advice` to the memory of its matrices."""

    def open_advised(path: Path) -> LanguageModel:
        model = load(path)
        begin, end = _span(model)
        begin -= begin % mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice):
            sys.exit(f"madvise({advice}): {os.strerror(ctypes.get_errno())}")
        return model

    return open_advised


def _in_small_pages(path: Path) -> LanguageModel:
    """Copy the weights to memory that is restricted to pages of 4 KiB."""
    model = load(path)
    size = sum(Arena.padded(parameter.array.nbytes) for parameter in model.parameters.values())
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    at, copies = 0, {}
    for name, parameter in model.parameters.items():
        array = parameter.array
        copy = np.frombuffer(memory, array.dtype, array.size, at).reshape(array.shape)
        copy[...] = array
        copies[name] = replace(parameter, array=copy)
        at += Arena.padded(array.nbytes)
    return LanguageModel(model.config, copies, None, model.fingerprint)


@dataclass(frozen=True)
class Kind:
    """One line of the table.

    Attributes
    ----------
    label : str
    open : callable
        Gives the model in the file.
    from_disk : bool
        Whether the file has to come from the disk when it is opened, or was just written.
    """

    label: str
    open: Callable[[Path], LanguageModel]
    from_disk: bool = False


_KINDS = (
    Kind("map, file just written", load),
    Kind("the same, MADV_POPULATE_READ", _advised(_MADV_POPULATE_READ)),
    Kind("map, file from the disk", load, from_disk=True),
    Kind("the same, MADV_HUGEPAGE", _advised(mmap.MADV_HUGEPAGE), from_disk=True),
    Kind("memory in pages of 4 KiB", _in_small_pages),
    Kind("resident", _resident),
)


def _span(model: LanguageModel) -> tuple[int, int]:
    """Return start and end of each matrix in memory."""
    arrays = [parameter.array for parameter in model.parameters.values() if parameter.array.nbytes >= 1 << 20]
    return min(array.ctypes.data for array in arrays), max(array.ctypes.data + array.nbytes for array in arrays)


def _large_pages(model: LanguageModel) -> float:
    """Return the share of the matrices' memory that is in pages of 2 MiB."""
    begin, end = _span(model)
    total = 0
    for area in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        first, last = (int(address, 16) for address in area.split(maxsplit=1)[0].split("-"))
        if first < end and last > begin:
            sizes = re.findall(r"^(?:AnonHugePages|FilePmdMapped): +(\d+) kB", area, re.MULTILINE)
            total += sum(map(int, sizes)) * 1024
    return min(1.0, total / (end - begin))


def _copy(source: Path, target: Path, *, from_disk: bool) -> None:
    with source.open("rb", buffering=0) as reading, target.open("wb", buffering=0) as writing:
        while block := reading.read(_WRITE_BYTES):
            writing.write(block)
        if from_disk:
            os.fsync(writing.fileno())
            os.posix_fadvise(writing.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass
class Found:
    """Results for one kind of memory; `rounds` by the number of threads."""

    load_seconds: float
    first_token_seconds: float
    large_pages: float
    weight_bytes: int
    rounds: dict[int, list[Round]]


def measure(source: Path, folder: Path, threads: Sequence[int], rounds: int) -> dict[str, Found]:
    """Open the model in every kind of memory, and measure them alternately."""
    found, measurements = {}, {}
    for number, kind in enumerate(_KINDS):
        path = folder / f"memory-{number}"
        try:
            _copy(source, path, from_disk=kind.from_disk)
            start = time.perf_counter()
            model = kind.open(path)
            middle = time.perf_counter()
            model.forward(0, num_threads=max(threads))
            end = time.perf_counter()
        finally:
            path.unlink()
        measurements[kind.label] = run = Measurement(model, 1, _DECODED)
        run.warm_up(max(threads))
        empty: dict[int, list[Round]] = {count: [] for count in threads}
        found[kind.label] = Found(middle - start, end - middle, _large_pages(model), run.token_bytes, empty)
    for _ in range(rounds):
        for count in threads:
            for label, run in measurements.items():
                found[label].rounds[count].append(run.round(count))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_memory", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtype", choices=(*DTYPES, *QUANTIZED_TYPES), default="f32")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    source = cached_model(arguments.shape, arguments.dtype, arguments.folder)
    found = measure(source, arguments.folder, arguments.threads, arguments.rounds)
    columns = ["", "in pages of 2 MiB", "load, ms", "first token, ms"]
    for count in arguments.threads:
        columns += [f"{count} thr.: {what}" for what in ("speed, ratio", "decode, ms", "reading alone, GB/s", "share")]
    report = Report(
        f"{name_of(arguments.shape)} {arguments.dtype}: decode from each kind of memory",
        columns,
        notes=[
            f"Medians of {arguments.rounds} rounds of {_DECODED} tokens, alternating.",
            "Speed: the ratio to the first line within a round.",
            "Reading alone: the same threads read the same weights, in turns with the tokens. Share: decode's of that.",
        ],
        values={"found": {label: asdict(one) for label, one in found.items()}},
    )
    first = found[_KINDS[0].label].rounds
    for label, one in found.items():
        cells = [label, f"{one.large_pages:.0%}"]
        cells += [f"{one.load_seconds * 1e3:.0f}", f"{one.first_token_seconds * 1e3:.0f}"]
        for count, measured in one.rounds.items():
            decode = [run.decode for run in measured]
            cells += [
                f"{ratio([run.decode for run in first[count]], decode):.2f}",
                f"{median(decode) * 1e3:.1f}",
                f"{one.weight_bytes / median([run.read for run in measured]) / 1e9:.1f}",
                f"{median([run.share for run in measured]):.0%}",
            ]
        report.rows.append(cells)
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
