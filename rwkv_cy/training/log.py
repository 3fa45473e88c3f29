"""The log of a run: a line of JSON for each step."""

from __future__ import annotations

import json
import os
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any

from rwkv_cy.errors import FormatError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.files.replacement import Replacement

__all__ = ["RunLog", "finite", "read_log"]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log; a last line that a killed run left incomplete is left out.

    Raises
    ------
    FormatError
        If another line is not a record.
    StorageError
        If the file cannot be read.
    """
    with os_errors(path, "read"):
        lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(
                f"{path}: line {number}: expected a JSON object with a step, got {line[:60]!r}"
            ) from error
        records.append(record)
    return records


class RunLog:
    """Context manager: appends records to a log, each complete when :meth:`write` returns.

    Parameters
    ----------
    path : Path
    step : int
        Steps that are complete: records of later ones, which a run that was killed has left, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [record for record in read_log(path) if record["step"] <= step] if step and path.exists() else []
        with Replacement(path, overwrite=True) as file:
            file.write_at(0, b"".join(_line(record) for record in kept))
            file.commit()
        with os_errors(path, "write"):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._path = path

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        line = memoryview(_line(record))
        with os_errors(self._path, "write"):
            while line:
                line = line[os.write(self._descriptor, line) :]

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with None in place of numbers that are not finite, which JSON does not have."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in record.items()}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(finite(record), allow_nan=False).encode() + b"\n"
