"""Many sequences at once: ``forward_batch`` as multiples of one sequence, and batches of records from file to file."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import batch_runs
from benchmarks.checkpoints import DTYPES, FOLDER, SHAPES, cached_model, name_of
from benchmarks.report import Report, median, ratio
from rwkv_cy import LanguageModel, load
from rwkv_cy.dtypes import MATRIX_TYPES

_SIZES = (2, 4, 8, 16, 32)
_DTYPES = ("q8", "bf16", "f32")
_DECODED = 8
#: The model of the batches of records.
RUNS_SHAPE, RUNS_DTYPE = "7-0.1b", "q8"
_ROUNDS, _ROUNDS_OF_RUNS = 5, 3
#: Target: number of sequences, type, and least throughput as a multiple of one sequence's.
_LEAST = (16, "q8", 5.0)


def measure(model: LanguageModel, sizes: Sequence[int], threads: int, rounds: int) -> dict[int, list[float]]:
    """Return the seconds of a step, which gives every sequence a token, for one sequence and each size; alternating.

    One sequence goes through ``forward``, which is what it competes with. Sequences have different tokens.
    """
    rng = np.random.default_rng(0)
    found: dict[int, list[float]] = {size: [] for size in (1, *sizes)}
    for _ in range(rounds):
        for size, times in found.items():
            tokens = rng.integers(0, model.vocab_size, (1 + _DECODED, size)).tolist()
            _, states = model.forward_batch(tokens[0], num_threads=threads)
            taken = []
            for step in tokens[1:]:
                start = time.perf_counter()
                if size == 1:
                    model.forward(step[0], states[0], in_place=True, num_threads=threads)
                else:
                    model.forward_batch(step, states, in_place=True, num_threads=threads)
                taken.append(time.perf_counter() - start)
            times.append(median(taken))
    return found


def multiples(found: dict[int, list[float]]) -> dict[int, float]:
    """Return the throughput of each number of sequences as a multiple of one sequence's: the median over the rounds."""
    return {size: size * ratio(found[1], times) for size, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_batch", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, *MATRIX_TYPES), default=_DTYPES)
    parser.add_argument("--sizes", nargs="+", type=int, default=_SIZES, help="numbers of sequences, beside one")
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, help="by default 5, and 3 of batches of records")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the checkpoints and the model files")
    parser.add_argument("--no-mmap", dest="mmap", action="store_false", help="read the weights into memory")
    parser.add_argument("--only", choices=("steps", "runs"), help="forward_batch alone, or batches of records alone")
    parser.add_argument("--records", type=int, default=128, help="of a batch of records")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer to a record")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = tuple(dict.fromkeys(size for size in arguments.sizes if size != 1))
    if not all(size > 1 for size in sizes):
        parser.error("--sizes: expected numbers above 0")
    steps = None if arguments.only == "runs" else _steps(arguments, sizes)
    runs = None
    if arguments.only != "steps":
        path = cached_model(RUNS_SHAPE, RUNS_DTYPE, arguments.folder)
        name = f"{name_of(RUNS_SHAPE)}, {RUNS_DTYPE}"
        runs = batch_runs.report(path, name, arguments.rounds or _ROUNDS_OF_RUNS, arguments.records, arguments.answer)
    if arguments.json:
        document = {} if steps is None else steps.document()
        print(json.dumps(document if runs is None else document | {"runs": runs.document()}, indent=2))
        return
    for report in (steps, runs):
        if report is not None:
            report.print(as_json=False)
            print()


def _steps(arguments: argparse.Namespace, sizes: Sequence[int]) -> Report:
    """Measure ``forward_batch``."""
    count, limited, least = _LEAST
    rounds = arguments.rounds or _ROUNDS
    report = Report(
        f"{name_of(arguments.shape)}: tokens a second of many sequences, as multiples of one",
        ("", "threads", "one sequence, tokens/s", *(f"{size} sequences" for size in sizes)),
        notes=[
            "In brackets: tokens/s of all together. Ratios within a round.",
            f"Medians of {rounds} rounds, alternating, each the median of {_DECODED} steps.",
            f"Target: {count} sequences in {limited} at least {least:.0f} times one.",
        ],
        values={"shape": arguments.shape, "limit": _LEAST, "rows": []},
    )
    for dtype in arguments.dtypes:
        model = load(cached_model(arguments.shape, dtype, arguments.folder), mmap=arguments.mmap)
        for threads in arguments.threads:
            found = measure(model, sizes, threads, rounds)
            times = multiples(found)
            report.rows.append(
                (
                    dtype,
                    str(threads),
                    f"{1 / median(found[1]):.0f}",
                    *(f"{times[size]:.2f} ({size / median(found[size]):.0f})" for size in sizes),
                )
            )
            report.values["rows"].append({"dtype": dtype, "threads": threads, "seconds": found, "multiples": times})
    return report


if __name__ == "__main__":
    main()
