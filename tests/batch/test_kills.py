"""A run that is killed with SIGKILL, at any of its writes or between records, is completed by later ones."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from batch.helpers import contents, records, write_jsonl
from rwkv_cy.batch import GenerateTask, ScoreTask, run_batch
from rwkv_cy.model.language_model import LanguageModel

#: Runs a batch; at the n-th call of what is named, the process kills itself.
VICTIM = """
import os, signal, sys
from rwkv_cy.batch import GenerateTask, ScoreTask, run_batch
from rwkv_cy.batch.run import _Job
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.model.language_model import load

model, source, folder, task, where, count = sys.argv[1:]
left = int(count)
owner, name = {"write": (Replacement, "write_at"), "commit": (Replacement, "commit"),
               "rename": (Replacement, "commit"), "record": (_Job, "note")}[where]
usual = getattr(owner, name)

def deadly(self, *args, **options):
    global left
    left -= 1
    if left == 0 and where != "rename":
        os.kill(os.getpid(), signal.SIGKILL)
    result = usual(self, *args, **options)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, deadly)
tasks = {"generate": GenerateTask(max_tokens=4, slots=3), "score": ScoreTask()}
run_batch(load(model), source, folder, tasks[task], block_rows=3)
"""


def run(model: Path, source: Path, folder: Path, task: str, where: str, count: int) -> int:
    """Run the victim; return its exit code."""
    words = [sys.executable, "-c", VICTIM, str(model), str(source), str(folder), task, where, str(count)]
    return subprocess.run(words, check=False, timeout=120).returncode


@pytest.mark.slow
@pytest.mark.parametrize("where", ["write", "commit", "rename", "record"])
def test_thirty_kills_of_a_kind(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, where: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*records(count=200), "{"])
    run_batch(kjv, source, tmp_path / "whole", GenerateTask(max_tokens=4), block_rows=3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        count = int(rng.integers(1, 7))
        assert run(kjv_checkpoint, source, tmp_path / "out", "generate", where, count) == -signal.SIGKILL
    assert run(kjv_checkpoint, source, tmp_path / "out", "generate", where, 0) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("task", [GenerateTask(max_tokens=4), ScoreTask()], ids=lambda task: task.name)
@pytest.mark.parametrize("runs", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_again_and_again(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, task: GenerateTask | ScoreTask, runs: int
) -> None:
    rows = [*records(task.text_field, 10), "{", {"id": "last", task.text_field: "end"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run_batch(kjv, source, tmp_path / "whole", task, block_rows=3)
    killed = 0
    # In the first run, the manifest is the first file. Later runs are killed early, and make little progress each.
    moments = [("write", 1), ("rename", 1), ("record", 2), ("commit", 2), ("rename", 1), ("record", 4), ("commit", 1)]
    moments += [("rename", 2), ("write", 3), ("rename", 3)]
    for where, count in moments[:runs]:
        code = run(kjv_checkpoint, source, tmp_path / "out", task.name, where, count)
        assert code in (0, -signal.SIGKILL)
        killed += code == -signal.SIGKILL
    assert killed >= 0.7 * runs
    assert run(kjv_checkpoint, source, tmp_path / "out", task.name, "record", 0) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
