"""Batches of records from file to file: one by one, in one process, in several, and on Ray, on the same cores."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bench_engine import Ids, ids
from benchmarks.report import Report, median, ratio
from rwkv_cy import LanguageModel, load
from rwkv_cy.batch import GenerateTask, LocalProcesses, run_batch
from rwkv_cy.batch.workers import Workers
from rwkv_cy.runtime import available_cpus

__all__ = ["Runs", "report"]

#: Tokens of a prompt; records of a block, as many as the slots of an engine.
PROMPT, BLOCK = 32, 16
#: A run that is longer has so many times the records: their difference is free of what a run costs before the first.
LONGER = 3
#: Target: a batch is at least so many times as fast as one by one, and Ray takes at most so much longer than processes.
LEAST, MOST = 5.0, 1.10


@dataclass(frozen=True)
class Runs:
    """A model, a folder, and the ways to answer records.

    Attributes
    ----------
    path : Path
        Of the model.
    folder : Path
    answer : int
        Tokens of an answer.
    """

    path: Path
    folder: Path
    answer: int

    def source(self, count: int) -> Path:
        """Return a file of records."""
        path = self.folder / f"{count}.jsonl"
        if not path.exists():
            rows = [{"id": place, "prompt": ids(PROMPT, place), "seed": place} for place in range(count)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def one_by_one(self, model: LanguageModel, count: int) -> float:
        """Return the seconds of a loop over the records."""
        rows = [json.loads(line) for line in self.source(count).read_text().splitlines()]
        start = time.perf_counter()
        for row in rows:
            "".join(model.generate(row["prompt"], max_tokens=self.answer, seed=row["seed"]))
        return time.perf_counter() - start

    def batch(self, model: LanguageModel, count: int, workers: Workers | None = None) -> float:
        """Return the seconds of a batch."""
        source = self.source(count)
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            start = time.perf_counter()
            report = run_batch(
                model,
                source,
                Path(out) / "answers",
                GenerateTask(max_tokens=self.answer),
                block_rows=BLOCK,
                workers=workers,
            )
            seconds = time.perf_counter() - start
        if report.totals.answers != count or report.totals.generated_tokens != count * self.answer:
            raise RuntimeError(f"expected {count} answers of {self.answer} tokens, got {report.totals}")
        return seconds


def report(path: Path, name: str, rounds: int, records: int, answer: int) -> Report:
    """Measure a model.

    Parameters
    ----------
    path : Path
    name : str
        Of the model, for the title.
    rounds : int
    records, answer : int
        Records of the shorter runs, and tokens of an answer.
    """
    count = available_cpus()
    model = load(path, tokenizer=Ids())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = Runs(path, Path(folder), answer)
        local = LocalProcesses(path, processes=count, threads=1, tokenizer=Ids())
        ways: dict[str, Callable[[int], float]] = {
            "one process": lambda number: runs.batch(model, number),
            f"{count} processes": lambda number: runs.batch(model, number, local),
        }
        if find_spec("ray"):
            from rwkv_cy.batch.on_ray import RayActors

            on_ray = RayActors(path, actors=count, threads=1, tokenizer=Ids())
            ways[f"Ray, {count} actors"] = lambda number: runs.batch(model, number, on_ray)
            stack.enter_context(_ray(count))
        alone: list[float] = []
        found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ways}
        for _ in range(rounds):
            alone.append(runs.one_by_one(model, max(1, records // 4)) * records / max(1, records // 4))
            for place, number in enumerate((records, LONGER * records)):
                for way, measure in ways.items():
                    found[way][place].append(measure(number))
    return _report(name, records, answer, alone, found)


@contextmanager
def _ray(actors: int) -> Iterator[None]:
    """Start Ray once for all runs, with a CPU for each actor and one for reading."""
    import ray

    ray.init(address="local", num_cpus=actors + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _report(
    name: str, records: int, answer: int, alone: list[float], found: dict[str, tuple[list[float], list[float]]]
) -> Report:
    """Return the table: speeds, and each way beside one by one and beside processes."""
    slopes = {way: [longer - shorter for shorter, longer in zip(*times, strict=True)] for way, times in found.items()}
    base = [seconds * (LONGER - 1) for seconds in alone]
    processes = list(slopes)[1]
    tokens = (LONGER - 1) * records * answer
    rows = [("one by one", f"{tokens / median(base):.0f}", "1.00", "", "")]
    for way, seconds in slopes.items():
        starts = [shorter - slope / (LONGER - 1) for shorter, slope in zip(found[way][0], seconds, strict=True)]
        rows.append(
            (
                way,
                f"{tokens / median(seconds):.0f}",
                f"{ratio(base, seconds):.2f}",
                f"{ratio(seconds, slopes[processes]):.2f}",
                f"{median(starts):.1f}",
            )
        )
    return Report(
        f"{name}: {records} and {LONGER * records} records of {PROMPT} tokens, each continued by {answer}",
        ("", "tokens/s", "times one by one", f"time, {processes} = 1", "before the first record, s"),
        rows,
        [
            "Tokens that are generated. All but the last column: of the longer batch without the shorter one.",
            f"Target: one process at least {LEAST:.0f} times one by one, Ray at most {MOST:.2f} of processes' time.",
        ],
        {"one_by_one": alone, "seconds": found},
    )
