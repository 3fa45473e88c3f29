"""Inputs and outputs of batches for their tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
