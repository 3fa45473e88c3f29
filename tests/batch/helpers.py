"""Inputs and outputs of batches for their tests."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.batch import ScoreTask
from rwkv_cy.batch.records import Block, Done
from rwkv_cy.model.language_model import LanguageModel

PROMPTS = ["In the beginning", "And God said", "x", "And the LORD spake unto Moses, saying, " * 3, "He", "And he said"]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """Write records, or lines as they are."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def records(field: str = "prompt", count: int = 14) -> list[dict[str, Any]]:
    """Return records of different lengths."""
    return [{"id": f"r{i}", field: PROMPTS[i % len(PROMPTS)] + "!" * (i // len(PROMPTS))} for i in range(count)]


def lines(folder: Path, pattern: str = "answers-*.jsonl") -> list[dict[str, Any]]:
    """Return the lines of all files, in the order of the blocks."""
    return [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_text("ascii").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file that a run leaves, but for the manifest, which has the time."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock-"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != "manifest.json"}


def children(parent: int | None = None) -> set[int]:
    """Return the processes that a process (by default, this one) has started and that run."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == (os.getpid() if parent is None else parent) and fields[0] not in ("Z", "X"):
            found.add(int(path.parent.name))
    return found


class KillsItself(ScoreTask):
    """Kills the process at block 1, as long as the file is not there; and always, if it cannot be made."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        object.__setattr__(self, "mark", mark)

    def run(self, model: LanguageModel, blocks: Iterable[Block], **options: Any) -> Iterator[Done]:
        return super().run(model, self._deadly(blocks), **options)

    def _deadly(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            mark: Path = self.mark  # type: ignore[attr-defined]
            if block.number == 1 and not mark.exists():
                if mark.parent.exists():
                    mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield block
