"""One model used by eight Python threads at once, beside the same texts one after the other: with or without a GIL."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence

import rwkv_cy
from benchmarks.report import Report, median
from rwkv_cy.dtypes import MATRIX_TYPES

_PROMPT = "In the beginning God created the heaven and the earth"
_THREADS = 8


def together(works: Sequence[Callable[[], str]]) -> list[str]:
    """Call functions at the same time, a thread each, and return their results."""
    results = [""] * len(works)

    def run(index: int) -> None:
        results[index] = works[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def measure(model: rwkv_cy.LanguageModel, tokens: int) -> tuple[float, float]:
    """Return the seconds of the texts of all seeds one after the other, and at once; exit if a text differs."""

    def text(seed: int) -> str:
        return "".join(model.generate(_PROMPT, max_tokens=tokens, temperature=1.0, seed=seed))

    works = [lambda seed=seed: text(seed) for seed in range(_THREADS)]
    start = time.perf_counter()
    expected = [work() for work in works]
    middle = time.perf_counter()
    found = together(works)
    end = time.perf_counter()
    if found != expected:
        sys.exit("bench_python_threads: expected the same texts from threads, got other ones")
    return middle - start, end - middle


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_python_threads", description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=MATRIX_TYPES, default=("f32", "q8", "q4"))
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    report = Report(
        f"{_THREADS} Python threads and one model, {'with' if gil else 'without'} a GIL",
        ("demo model", "8 threads, times one", "one after the other, tokens/s", "8 threads, tokens/s"),
        notes=[
            f"Medians of {options.rounds} rounds; {_THREADS} texts of {options.tokens} tokens, the same in both.",
            "A call uses one thread of the package.",
        ],
        values={"gil": gil, "rows": []},
    )
    rwkv_cy.set_num_threads(1)
    for dtype in options.dtypes:
        with rwkv_cy.load(rwkv_cy.demo_model_path(), dtype=dtype) as model:
            measure(model, 8)
            rounds = [measure(model, options.tokens) for _ in range(options.rounds)]
        times = median([one / many for one, many in rounds])
        count = _THREADS * options.tokens
        alone, shared = (count / median([one[i] for one in rounds]) for i in range(2))
        report.rows.append((dtype, f"{times:.2f}", f"{alone:.0f}", f"{shared:.0f}"))
        report.values["rows"].append({"dtype": dtype, "times": times, "alone": alone, "shared": shared})
    report.print(as_json=options.json)


if __name__ == "__main__":
    main()
