"""Local processes: the same files as one process writes; the blocks of one that dies are done again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.helpers import KillsItself, children, contents, records, write_jsonl
from rwkv_cy.batch import EmbedTask, GenerateTask, LocalProcesses, Progress, ScoreTask, run_batch
from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.model.language_model import LanguageModel

ROWS = [*records(count=20), "{", {"id": "last", "prompt": None}]


def as_texts(field: str) -> list[Any]:
    """Return the records with their texts in another field."""
    return [{("text" if key == "prompt" else key): value for key, value in row.items()} if isinstance(row, dict) and
            field == "text" else row for row in ROWS]  # fmt: skip


@pytest.fixture
def left() -> Callable[[], set[int]]:
    """Return what tells the processes that a test started and that run: other tests may have left some running."""
    before = children()
    return lambda: children() - before


@pytest.mark.parametrize(
    "task",
    [GenerateTask(max_tokens=5, slots=3), ScoreTask(window=9), EmbedTask(normalize=True)],
    ids=lambda task: task.name,
)
def test_two_processes_write_what_one_writes(
    kjv: LanguageModel,
    kjv_checkpoint: Path,
    tmp_path: Path,
    task: GenerateTask | ScoreTask | EmbedTask,
    left: Callable[[], set[int]],
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", as_texts(task.text_field))
    alone = run_batch(kjv, source, tmp_path / "alone", task, block_rows=3)
    workers = LocalProcesses(kjv_checkpoint, processes=2)
    seen: list[Progress] = []
    report = run_batch(kjv, source, tmp_path / "out", task, block_rows=3, workers=workers, progress=seen.append)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert report.totals == alone.totals
    assert (seen[-1].records, seen[-1].tokens) == (alone.run_records, alone.run_tokens)
    assert left() == set()
    again = run_batch(kjv, source, tmp_path / "out", task, block_rows=3, workers=workers)
    assert (again.run_records, again.totals) == (0, alone.totals)


@pytest.fixture
def tests_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes unpickle the tasks of this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))


@pytest.mark.usefixtures("tests_are_importable")
def test_a_process_that_dies_is_replaced(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 20))
    run_batch(kjv, source, tmp_path / "alone", ScoreTask(), block_rows=3)
    task = KillsItself(tmp_path / "mark")
    report = run_batch(
        kjv, source, tmp_path / "out", task, block_rows=3, workers=LocalProcesses(kjv_checkpoint, processes=2)
    )
    assert (tmp_path / "mark").exists()
    assert report.complete
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.usefixtures("tests_are_importable")
def test_a_block_that_kills_every_process_ends_the_job(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, left: Callable[[], set[int]]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 6))
    task = KillsItself(tmp_path / "nowhere" / "mark")
    with pytest.raises(StorageError, match=r"block 1, got 4 processes that died of it, the last by signal 9"):
        run_batch(
            kjv, source, tmp_path / "out", task, block_rows=3, workers=LocalProcesses(kjv_checkpoint, processes=1)
        )
    assert left() == set()


def test_processes_that_die_as_they_start_end_the_job(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_cy.batch.processes._PROGRAM", "{cpus}, {path}, {messages}, {life}\nraise SystemExit(3)")
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    with pytest.raises(StorageError, match="got 4 that died first, the last by exit code 3; look for a lack of memory"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), workers=LocalProcesses(kjv_checkpoint, processes=1))


def test_processes_that_cannot_be_started(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("sys.executable", str(tmp_path / "missing"))
    with pytest.raises(StorageError, match="got No such file or directory as it started; use fewer processes"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), workers=LocalProcesses(kjv_checkpoint, processes=1))
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_another_model_at_the_path_is_refused(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, small: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    with pytest.raises(ConfigError, match=r"expected the same model everywhere, .* in process \d+; copy the same file"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), workers=LocalProcesses(small, tokenizer="bytes"))
    with pytest.raises(ConfigError, match="expected the same model everywhere"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), workers=LocalProcesses(kjv_checkpoint, dtype="q8"))


def test_too_many_bad_records_end_the_processes(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, left: Callable[[], set[int]]
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["{"] * 9)
    workers = LocalProcesses(kjv_checkpoint, processes=2)
    with pytest.raises(FormatError, match="expected at most 1 bad records, got"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), block_rows=2, max_bad=1, workers=workers)
    assert left() == set()


def test_children_end_with_their_parent(kjv_checkpoint: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records(count=200))
    words = [
        "batch",
        "generate",
        str(kjv_checkpoint),
        str(source),
        "-n",
        "200",
        "--processes",
        "2",
        "--block",
        "10",
        "-q",
    ]
    with subprocess.Popen([sys.executable, "-m", "rwkv_cy", *words, "--out", str(tmp_path / "out")]) as victim:
        ours: set[int] = set()
        while len(ours) < 2:
            assert victim.poll() is None
            ours = children(victim.pid)
            time.sleep(0.01)
        victim.kill()
    end = time.monotonic() + 20
    while any(_runs(pid) for pid in ours):
        assert time.monotonic() < end, "the processes outlive the one that started them"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Tell whether a process is there, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
