"""A run: takes the blocks that are not complete yet through a task, into the folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from rwkv_cy.batch.folder import Folder
from rwkv_cy.batch.inputs import Input, open_input
from rwkv_cy.batch.mistaken_fields import MistakenFields
from rwkv_cy.batch.records import Bad, Block, Done, Totals, read_block
from rwkv_cy.batch.report import BatchReport, Progress
from rwkv_cy.batch.task import Task
from rwkv_cy.batch.workers import Work, Workers, identity_of
from rwkv_cy.errors import ConfigError, FormatError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.records import dataclass, fields
from rwkv_cy.text.tokens import check_argument, require_model
from rwkv_cy.toolkit.schema_names import unicode_only

__all__ = ["Part", "run_batch"]

_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Part:
    """The blocks of one of several runs that share a batch: every `count`-th, from the `index`-th on.

    Raises
    ------
    ConfigError
        If `index` is not from 1 to `count`.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"part: expected 1/{self.count} to {self.count}/{self.count}, got {self.index}")

    def has(self, number: int) -> bool:
        """Tell whether a block belongs to it."""
        return number % self.count == self.index - 1


_WHOLE = Part()


def run_batch(
    model: LanguageModel,
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    task: Task,
    *,
    block_rows: int = 256,
    max_bad: int = 100,
    part: Part = _WHOLE,
    path: str | os.PathLike[str] | None = None,
    workers: Workers | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Work on all records of a file that do not have an answer yet.

    Parameters
    ----------
    model : LanguageModel
    source : path-like
        JSONL, text or Parquet, by the end of its name.
    folder : path-like
        Where answers go; an earlier run with the same input, model and settings is completed.
    task : GenerateTask, ScoreTask or EmbedTask
    block_rows : int, default 256
        Rows of the input whose answers are one file.
    max_bad : int, default 100
        End if more records than this are bad.
    part : Part, optional
        Work on a part of the blocks, beside runs on the others.
    path : path-like, optional
        The model's file, by which its chat format is chosen.
    workers : LocalProcesses or RayActors, optional
        Who works on the blocks: the same model elsewhere, and not `model`, which only tells what it has to be.
    progress : callable, optional
        Called a few times a second, and at the end.

    Returns
    -------
    BatchReport

    Raises
    ------
    ConfigError
        If a number is out of range, or the folder has another batch.
    FormatError
        If too many records are bad, or a file is damaged.
    StorageError
        If a file cannot be read or written, or another run works on the folder.
    MissingDependencyError
        If a package for the input or the workers is not installed.
    """
    require_model(model)
    check_argument("task", task, "a task", attribute="text_field", advice="as GenerateTask()")
    if workers is not None:
        check_argument("workers", workers, "LocalProcesses or RayActors", attribute="run")
    if block_rows < 1 or max_bad < 0:
        raise ConfigError(f"block_rows, max_bad: expected at least 1 and 0, got {block_rows} and {max_bad}")
    output = Folder(Path(folder))
    output.check()
    rows = open_input(Path(source), task.text_field, block_rows)
    with output.locked(f"{part.index}-{part.count}"):
        identity = identity_of(model)
        created = output.agree(_manifest(identity, rows, task))
        job = _Job(output, rows, max_bad, part, MistakenFields(getattr(task, "optional_fields", ())), progress)
        with ExitStack() as stack:
            answered: Iterator[Done]
            if workers is None:
                model_path = None if path is None else Path(path)
                answered = task.run(model, job.blocks(), created=created, note=job.note, path=model_path)
            else:
                work = Work(task, rows, job.numbers, created, identity)
                answered = stack.enter_context(closing(workers.run(work, job.count)))
            for done in answered:
                job.finish(done)
        rows.check_unchanged()
        return job.report(task.name)


def _manifest(identity: Mapping[str, object], rows: Input, task: Task) -> dict[str, object]:
    from rwkv_cy import __version__

    return {
        "version": __version__,
        "created": int(time.time()),
        "task": task.name,
        "settings": dict(task.settings()),
        "input": {"name": unicode_only(rows.path.name), "size": rows.size, "sha256": rows.sha256, "rows": rows.rows},
        "block_rows": rows.block_rows,
        **identity,
    }


class _Job:
    """What a run has done so far.

    Attributes
    ----------
    numbers : list of int
        Of the blocks to do.
    """

    def __init__(
        self,
        folder: Folder,
        rows: Input,
        max_bad: int,
        part: Part,
        mistaken: MistakenFields,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._folder = folder
        self._rows = rows
        self._max_bad = max_bad
        self._mistaken = mistaken
        self._progress = progress
        self._complete = folder.complete_blocks()
        self._bad = {number: totals.bad for number, totals in self._complete.items()}
        self._rows_done = sum(self._size(number) for number in self._complete)
        total = -(-rows.rows // rows.block_rows)
        self.numbers = [one for one in range(total) if part.has(one) and one not in self._complete]
        self._records = self._tokens = 0
        self._start = time.perf_counter()
        self._shown = 0.0

    def blocks(self) -> Iterator[Block]:
        """Read the blocks to do."""
        for number in self.numbers:
            block = read_block(number, self._rows.read(number))
            self._rows.check_unchanged()
            self._check_bad(Done(block))
            self._mistaken.look(block.records)
            yield block

    def note(self, tokens: int) -> None:
        """Count a record."""
        self.count(1, tokens)

    def count(self, records: int, tokens: int) -> None:
        """Count records and their tokens."""
        self._records += records
        self._tokens += tokens
        self._show()

    def finish(self, done: Done) -> None:
        """Write a block."""
        self._check_bad(done)
        self._mistaken.look(done.block.records)  # which another process read
        self._folder.write(done)
        self._complete[done.block.number] = done.totals
        self._show()

    def report(self, task: str) -> BatchReport:
        """Return the report, and show the progress for the last time."""
        self._show(always=True)
        return BatchReport(
            task,
            self._folder.path,
            len(self._complete),
            -(-self._rows.rows // self._rows.block_rows),
            _sum(self._complete),
            self._records,
            self._tokens,
            time.perf_counter() - self._start,
        )

    def _size(self, number: int) -> int:
        """Return the rows of a block."""
        return min(self._rows.block_rows, self._rows.rows - number * self._rows.block_rows)

    def _check_bad(self, done: Done) -> None:
        """Raise FormatError if there are too many bad records; those of the block are written to the error file."""
        self._bad[done.block.number] = len(done.bad)
        count = sum(self._bad.values())
        if count <= self._max_bad:
            return
        self._folder.write_errors(done)
        last: Bad = done.bad[-1]
        raise FormatError(
            f"{self._rows.path}: expected at most {self._max_bad} bad records, got {count}; the last is on line "
            f"{last.place}: {last.reason}; see {self._folder.path / 'errors'}, then correct them or allow more"
        )

    def _show(self, *, always: bool = False) -> None:
        now = time.perf_counter()
        if self._progress is not None and (always or now - self._shown >= _PROGRESS_SECONDS):
            self._shown = now
            rows = min(self._rows_done + self._records, self._rows.rows)
            self._progress(Progress(rows, self._rows.rows, self._records, self._tokens, now - self._start))


def _sum(blocks: dict[int, Totals]) -> Totals:
    """Add up, in the order of the blocks."""
    values = [blocks[number] for number in sorted(blocks)]
    names = [one.name for one in fields(Totals) if one.name != "nats"]
    counts = {name: sum(getattr(one, name) for one in values) for name in names}
    return Totals(**counts, nats=math.fsum(one.nats for one in values))
