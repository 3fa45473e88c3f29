"""Batches of records from file to file: one by one, in one process, in several, and on Ray, on the same cores."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.bench_engine import Ids, ids
from benchmarks.report import Report, median, ratio
from rwkv_cy import LanguageModel, load
from rwkv_cy.batch import GenerateTask, LocalProcesses, run_batch
from rwkv_cy.batch.records import Block, Done
from rwkv_cy.batch.task import Note
from rwkv_cy.batch.workers import Workers
from rwkv_cy.runtime import available_cpus

__all__ = ["Runs", "report"]

#: Tokens of a prompt; records of a block, as many as the slots of an engine.
PROMPT, BLOCK = 32, 16
#: The logits of a model with initial values are nearly equal: this makes few of them likely, as in a text.
TEMPERATURE = 0.1
#: Target: a batch is at least so many times as fast as one by one, and Ray takes at most so much longer than processes.
LEAST, MOST = 5.0, 1.10


@dataclass(frozen=True)
class Speed:
    """Of a batch.

    Attributes
    ----------
    record : float
        Seconds of a record: from the time at which every process has answered a block to that at which the last block
        is written.
    begin : float
        Seconds before the first record: what is left of the time before that.
    """

    record: float
    begin: float


class Timed:
    """A task that appends a line to a file for each block: when it was answered, and by which process."""

    def __init__(self, task: GenerateTask, log: Path) -> None:
        self._task = task
        self._log = log
        self.name, self.text_field = task.name, task.text_field

    def settings(self) -> Mapping[str, Any]:
        """Return those of the task."""
        return self._task.settings()

    def run(
        self, model: LanguageModel, blocks: Iterable[Block], *, created: int, note: Note, path: Path | None = None
    ) -> Iterator[Done]:
        """Work on blocks, and yield each when it is complete."""
        for done in self._task.run(model, blocks, created=created, note=note, path=path):
            with self._log.open("a") as file:
                file.write(f"{time.time()} {os.getpid()}\n")
            yield done


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
            "".join(model.generate(row["prompt"], max_tokens=self.answer, seed=row["seed"], temperature=TEMPERATURE))
        return time.perf_counter() - start

    def batch(self, model: LanguageModel, count: int, processes: int, workers: Workers | None = None) -> Speed:
        """Return the speed of a batch that so many processes work on."""
        source = self.source(count)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            out, log, start = Path(folder) / "answers", Path(folder) / "log", time.time()
            task = Timed(GenerateTask(max_tokens=self.answer, sampling={"temperature": TEMPERATURE}), log)
            report = run_batch(model, source, out, task, block_rows=BLOCK, workers=workers)
            end = max(path.stat().st_mtime for path in (out / "blocks").iterdir())
            blocks = [(float(when), process) for when, process in map(str.split, log.read_text().splitlines())]
        if report.totals.answers != count or report.totals.generated_tokens != count * self.answer:
            raise RuntimeError(f"expected {count} answers of {self.answer} tokens, got {report.totals}")
        first = {process: when for when, process in sorted(blocks, reverse=True)}
        if len(first) != processes:
            raise RuntimeError(f"expected answers of {processes} processes, got those of {len(first)}")
        begin = max(first.values())
        left = sum(when > begin for when, _ in blocks)
        if not left:
            raise RuntimeError("expected blocks after the first of every process, got none; use more records")
        return Speed((end - begin) / (left * BLOCK), begin - start - processes * (end - begin) / left)


def report(path: Path, name: str, rounds: int, records: int, answer: int) -> Report:
    """Measure a model.

    Parameters
    ----------
    path : Path
    name : str
        Of the model, for the title.
    rounds : int
    records, answer : int
        Records of a batch, and tokens of an answer.
    """
    count = available_cpus()
    if records % BLOCK or records < 2 * count * BLOCK:
        raise ValueError(f"records: expected a multiple of {BLOCK}, at least {2 * count * BLOCK}, got {records}")
    model = load(path, tokenizer=Ids())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs = Runs(path, Path(folder), answer)
        local = LocalProcesses(path, processes=count, threads=1, tokenizer=Ids())
        ways: dict[str, Callable[[], Speed]] = {
            "one process": lambda: runs.batch(model, records, 1),
            f"{count} processes": lambda: runs.batch(model, records, count, local),
        }
        if find_spec("ray"):
            from rwkv_cy.batch.on_ray import RayActors

            on_ray = RayActors(path, actors=count, threads=1, tokenizer=Ids())
            ways[f"Ray, {count} actors"] = lambda: runs.batch(model, records, count, on_ray)
            stack.enter_context(_ray(count))
        alone: list[float] = []
        found: dict[str, list[Speed]] = {way: [] for way in ways}
        for _ in range(rounds):
            alone.append(runs.one_by_one(model, BLOCK) / BLOCK)
            for way, measure in ways.items():
                found[way].append(measure())
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


def _report(name: str, records: int, answer: int, alone: list[float], found: dict[str, list[Speed]]) -> Report:
    """Return the table: speeds, and each way beside one by one and beside processes."""
    times = {way: [speed.record for speed in speeds] for way, speeds in found.items()}
    processes = list(times)[1]
    rows = [("one by one", f"{answer / median(alone):.0f}", "1.00", "", "")]
    for way, seconds in times.items():
        rows.append(
            (
                way,
                f"{answer / median(seconds):.0f}",
                f"{ratio(alone, seconds):.2f}",
                f"{ratio(seconds, times[processes]):.2f}",
                f"{median([speed.begin for speed in found[way]]):.1f}",
            )
        )
    return Report(
        f"{name}: {records} records of {PROMPT} tokens, each continued by {answer}; {BLOCK} one by one",
        ("", "tokens/s", "times one by one", f"time, {processes} = 1", "before the first record, s"),
        rows,
        [
            f"Tokens that are generated, at temperature {TEMPERATURE}, while the prompts of others are read. Times of",
            "batches: from when every process has answered a block to when the last block is written. Medians of",
            f"{len(alone)} rounds, alternating; ratios within a round.",
            f"Target: one process at least {LEAST:.0f} times one by one, Ray at most {MOST:.2f} of processes' time.",
        ],
        {
            "one_by_one": alone,
            "seconds": {way: [asdict(speed) for speed in speeds] for way, speeds in found.items()},
        },
    )
