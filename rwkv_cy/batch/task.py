"""What a task is: settings as plain data, and the work on blocks of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rwkv_cy.batch.records import Block, Done, Record
from rwkv_cy.errors import FormatError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.score import as_tokens

__all__ = ["Note", "Task", "check_url", "tokens_of"]

#: Called after each record with its tokens.
Note = Callable[[int], None]


class Task(Protocol):
    """A task.

    Attributes
    ----------
    name : str
    text_field : str
        The field of a record with its text.
    optional_fields : tuple of str
        Other fields that have an effect.
    """

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def text_field(self) -> str:
        """The field of a record with its text."""
        ...

    @property
    def optional_fields(self) -> tuple[str, ...]:
        """Other fields of a record that have an effect."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Return what the answers depend on, as plain values."""
        ...

    def run(
        self, model: LanguageModel, blocks: Iterable[Block], *, created: int, note: Note, path: Path | None = None
    ) -> Iterator[Done]:
        """Work on blocks, and yield each when it is complete.

        Parameters
        ----------
        model : LanguageModel
        blocks : iterable of Block
            Taken one by one, as there is work to do.
        created : int
            The time that response objects carry.
        note : callable
            Called after each record with its tokens.
        path : Path, optional
            The model's file, by which its chat format is chosen.
        """
        ...


def check_url(record: Record, *urls: str) -> None:
    """Raise FormatError if a record of OpenAI's format is for other endpoints."""
    if record.url and record.url not in urls:
        expected = " or ".join(urls) or "a plain record"
        raise FormatError(f"url: expected {expected} for this task, got {record.url!r}")


def tokens_of(model: LanguageModel, record: Record, field: str) -> npt.NDArray[np.int64]:
    """Return the tokens of a record's text: a string, or token ids.

    Raises
    ------
    FormatError
        If it is something else, missing or empty.
    TokenError, TokenizerError
        If a token is outside the vocabulary, or the text cannot be encoded.
    """
    value = record.fields.get(field)
    if not isinstance(value, str) and not (isinstance(value, list) and all(type(one) is int for one in value)):
        others = f"; the record has {', '.join(sorted(record.fields))[:80]}" if record.fields else ""
        got = f"none{others}" if value is None else type(value).__name__
        raise FormatError(f"{field}: expected a text or token ids, got {got}")
    if not value:
        raise FormatError(f"{field}: expected at least one token, got none")
    return as_tokens(model, value)
