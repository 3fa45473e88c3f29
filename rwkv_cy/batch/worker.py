"""A task as a callable object for engines of data frames: columns of records in, columns of answers out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.batch.records import read_block
from rwkv_cy.batch.task import Task
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import load
from rwkv_cy.text.tokens import check_argument

__all__ = ["BatchWorker"]


class BatchWorker:
    """Loads a model once, and answers batches of records: for ``map_batches`` and its kin.

    Parameters
    ----------
    path : path-like
        The model, on a disk that the machine reaches: weights are mapped, not sent.
    task : GenerateTask, ScoreTask or EmbedTask
    **options
        Of :func:`rwkv_cy.load`.

    Raises
    ------
    RWKVError
        As :func:`rwkv_cy.load`.
    """

    def __init__(self, path: str | os.PathLike[str], task: Task, **options: Any) -> None:
        self._path = Path(path)
        self._task = task
        self._model = load(self._path, **options)

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Answer records.

        Parameters
        ----------
        columns : mapping of str to sequence
            The fields of records by name, of one length: ``id``, and ``prompt`` or ``text``; others as in a file. None
            is a field that a record does not have.

        Returns
        -------
        dict of str to list
            ``id``, as it came; ``answer``, the line of the output file as JSON, or None; ``error``, why there is none.

        Raises
        ------
        ConfigError
            If the columns have different lengths.
        """
        check_argument("columns", columns, "a mapping of names to columns", attribute="items")
        values = {name: [_plain(value) for value in column] for name, column in columns.items()}
        lengths = {len(column) for column in values.values()}
        if len(lengths) > 1:
            raise ConfigError(f"columns: expected one length, got {', '.join(map(str, sorted(lengths)))}")
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        block = read_block(0, enumerate(rows, 1))
        (done,) = self._task.run(self._model, [block], created=0, note=lambda _: None, path=self._path)
        bad = {one.place: one.reason for one in done.bad}
        answers = [done.answers.get(place) for place in range(1, len(rows) + 1)]
        return {
            "id": [row.get("id", row.get("custom_id")) for row in rows],
            "answer": [None if answer is None else json.dumps(answer, allow_nan=False) for answer in answers],
            "error": [bad.get(place) for place in range(1, len(rows) + 1)],
        }


def _plain(value: Any) -> Any:
    """Return a value of an array as a plain one."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
