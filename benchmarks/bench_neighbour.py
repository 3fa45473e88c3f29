"""Decode while another process keeps a core busy: two threads, compared with one on a free core."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.report import Report, median, ratio
from benchmarks.worker import Worker
from rwkv_cy.dtypes import QUANTIZED_TYPES

_DECODED = 16
#: Limit: time of two threads beside a busy process, as a multiple of one thread's on a free core.
_MAX_RATIO = 1.5
_ALONE, _BESIDE = "1 thread, a core of its own", "2 threads, beside the neighbour"
#: Settings of each row: threads, whether the other process runs, whether to avoid its core.
_CASES = {
    _ALONE: (1, True, True),
    "1 thread, wherever the system puts it": (1, True, False),
    _BESIDE: (2, True, False),
    "1 thread, no neighbour": (1, False, False),
    "2 threads, no neighbour": (2, False, False),
}


@contextmanager
def neighbour(core: int | None) -> Iterator[None]:
    """Run a process on `core` that computes without reading memory; None runs none."""
    if core is None:
        yield
        return
    program = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(path: Path, dtype: str, rounds: int, cores: tuple[int, int]) -> dict[str, list[list[float]]]:
    """Return the seconds of each token of each round; the other process has the first of the two cores."""
    busy, free = cores
    found: dict[str, list[list[float]]] = {case: [] for case in _CASES}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for case, (threads, _, pinned) in _CASES.items():
            # A child process inherits the affinity mask.
            os.sched_setaffinity(0, {free} if pinned else set(cores))
            workers[case] = stack.enter_context(Worker("rwkv_cy", path, dtype, threads))
        os.sched_setaffinity(0, set(cores))
        for _ in range(rounds):
            for case, worker in workers.items():
                with neighbour(busy if _CASES[case][1] else None):
                    worker.seconds([0], keep_state=False)
                    taken = [worker.seconds([token], keep_state=True) for token in range(_DECODED)]
                found[case].append(taken)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_neighbour", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtype", choices=(*DTYPES, *QUANTIZED_TYPES), default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        sys.exit("bench_neighbour: expected two cores, got one")
    busy, free = allowed[:2]
    path = cached_model(arguments.shape, arguments.dtype, arguments.folder)
    found = measure(path, arguments.dtype, arguments.rounds, (busy, free))
    report = Report(
        f"{name_of(arguments.shape)} {arguments.dtype}: decode on two cores, one of which another process keeps busy",
        ("", "time, ratio to the first line", "decode, ms a token", "median token, ms", "slowest token, ms"),
        values={"seconds_per_token": found, "limits": {"ratio": _MAX_RATIO}},
        notes=[
            f"Medians of {arguments.rounds} rounds, each the mean of {_DECODED} tokens; ratios within a round.",
            f"Limit: two threads beside the other process take at most {_MAX_RATIO} times the first line.",
        ],
    )
    means = {case: [sum(tokens) / len(tokens) for tokens in taken] for case, taken in found.items()}
    for case, taken in found.items():
        every = [seconds for tokens in taken for seconds in tokens]
        figures = median(means[case]), median(every), max(every)
        cells = [f"{seconds * 1e3:.1f}" for seconds in figures]
        report.rows.append((case, f"{ratio(means[case], means[_ALONE]):.2f}", *cells))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
