"""Runs that take hours and go on after they were killed: each ends as the run that was not disturbed, bit by bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from faults.campaigns import kill_moments
from faults.moments import Ended, ended, run_child, temporary_files
from faults.preload import Fault, Record
from faults.table import RunRow
from rwkv7_shapes import rwkv7_config
from rwkv_cy import LanguageModel
from rwkv_cy.cli.main import main
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training.log import read_log

__all__ = ["RUNS", "LongRun", "survive"]

_CONFIG = rwkv7_config(32, 2, 16, (8, 8, 8, 8), vocab_size=256)
_TEXT = "the quick brown fox jumps over the lazy dog; " * 60
_STEPS = ("--steps", "9", "--every", "2", "--batch-size", "2", "--context", "24", "--threads", "1", "--quiet")
#: What the commands import when they run: every child that is forked has it.
_LATER = ("storage.skeleton", "training.run", "toolkit.loss_plot", "toolkit.schema_names", "model.language_tape")


@dataclass(frozen=True)
class LongRun:
    """A run that goes on when it is started again.

    Attributes
    ----------
    name : str
    target : str
        Name of the file that it writes at its end.
    prepare : callable
        ``prepare(source)`` writes what the run reads into a folder.
    start : callable
        ``start(source, target)`` runs to the end, and returns the exit code.
    result : callable
        ``result(target)`` returns what must be the same however often the run was killed.
    progress : callable
        ``progress(target)`` tells whether the run has saved anything to go on from.
    """

    name: str
    target: str
    prepare: Callable[[Path], None]
    start: Callable[[Path, Path], int]
    result: Callable[[Path], object]
    progress: Callable[[Path], bool]


def survive(run: LongRun, folder: Path, count: int) -> RunRow:
    """Kill a run at `count` moments; after each, start it again and compare its result.

    Most moments are system calls, as in the campaign of operations, each in a run of its own. A fifth are random times,
    in runs that are killed again and again until they are complete.
    """
    return _Survival(run, folder).all(count)


class _Survival:
    def __init__(self, run: LongRun, folder: Path) -> None:
        self.run, self.row = run, RunRow(run.name)
        self.source, self.out, self.log = folder / "source", folder / "target", folder / "output"
        self.target = self.out / run.target
        self.record = Record()
        self.source.mkdir()
        run.prepare(self.source)
        self.reset()
        began = time.monotonic()
        self.must_end(self.child(), "no fault")
        self.seconds = time.monotonic() - began
        self.expected = run.result(self.target)

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def start(self, fault: Fault | None = None) -> int:
        work = lambda: self.run.start(self.source, self.target)  # noqa: E731
        if fault is None:
            return run_child(work, self.log)
        address = self.record.clear()
        return run_child(work, self.log, prepare=lambda: fault.arm(self.out, address))

    def child(self, fault: Fault | None = None) -> Ended:
        return ended(self.start(fault), self.log)

    def must_end(self, child: Ended, moment: object) -> None:
        if child.code != 0:
            self.problem("expected that the run ends", moment, child)

    def problem(self, what: str, moment: object, child: Ended) -> None:
        self.row.problems.append(f"{self.run.name}: {moment}: {what} (exit {child.code}): {child.output[-2000:]}")

    def all(self, count: int) -> RunRow:
        self.reset()
        self.child(Fault.counting())
        for fault in kill_moments(self.record.kinds(), count - count // 5):
            self.reset()
            self.killed(self.child(fault), fault)
            self.go_on(fault)
        rng = random.Random(1)
        self.reset()
        while self.row.moments < count:
            pid, delay = self.start(), rng.uniform(0, self.seconds)
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
            moment = f"killed after {delay:.4f} s"
            self.killed(ended(pid, self.log), moment)
            if self.target.exists():
                self.go_on(moment)
                self.reset()
        self.go_on("the last one")
        return self.row

    def killed(self, child: Ended, moment: object) -> None:
        """Count a moment by what the run had reached."""
        self.row.moments += 1
        if child.code not in (-signal.SIGKILL, 0):
            self.problem("expected to be killed", moment, child)
        if self.target.exists():
            self.row.complete += 1
        elif self.run.progress(self.target):
            self.row.went_on += 1
        else:
            self.row.began += 1

    def go_on(self, moment: object) -> None:
        """Start the run again unless it is complete, and compare."""
        child = Ended(0, "")
        if not self.target.exists():
            child = self.child()
            self.must_end(child, moment)
            if left := temporary_files(self.out):
                self.problem(f"left {left}", moment, child)
        if child.code == 0 and self.run.result(self.target) != self.expected:
            self.problem("expected the result of the run that was not disturbed", moment, child)


def _prepare(source: Path) -> None:
    for module in _LATER:
        import_module(f"rwkv_cy.{module}")
    (source / "book.txt").write_text(_TEXT)
    lines = [json.dumps({"text": sentence}) for sentence in _TEXT.split("; ")]
    (source / "book.jsonl").write_text("\n".join(lines))
    rng = np.random.default_rng(5)
    parameters = {
        name: (value.array + 0.1 * rng.standard_normal(value.array.shape)).astype(np.float32)
        for name, value in LanguageModel.new(_CONFIG, 3).parameters.items()
    }
    LanguageModel(_CONFIG, parameters, ByteTokenizer()).save(source / "base.h5")


def _result(target: Path) -> object:
    """Return the file that was written, and the loss, the norm of the gradients and the rate of each step."""
    records = read_log(_folder(target) / "log.jsonl")
    return target.read_bytes(), [{key: own for key, own in record.items() if key != "seconds"} for record in records]


def _folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.training")


def _training(name: str, target: str, *words: str) -> LongRun:
    def start(source: Path, target: Path) -> int:
        return main([*(word.format(source=source, target=target) for word in words), *_STEPS])

    return LongRun(
        name, target, _prepare, start, _result, lambda target: (_folder(target) / "checkpoint.safetensors").exists()
    )


def _tune(method: str, target: str, data: str) -> LongRun:
    words = ("tune", "{source}/base.h5", f"{{source}}/{data}", "--method", method, "--output", "{target}")
    return _training(f"tune --method {method}", target, *words)


RUNS: Sequence[LongRun] = (
    _training(
        "train",
        "model.h5",
        *("train", "--new", "rwkv7", "--d-model", "32", "--num-layers", "2", "--head-size", "16"),
        *("{source}/book.txt", "{target}", "--held-out", "{source}/book.txt"),
    ),
    _tune("state", "state.pth", "book.jsonl"),
    _tune("lora", "lora.safetensors", "book.txt"),
    _tune("full", "full.h5", "book.txt"),
)
