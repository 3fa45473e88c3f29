"""Records of a batch: what a row of the input means, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rwkv_cy.batch import openai_format
from rwkv_cy.records import dataclass, field

__all__ = ["Bad", "Block", "Done", "Name", "Record", "Row", "Totals", "read_block"]

Name = str | int
#: A row of the input: its number, from 1, and its fields or why it does not have any.
Row = tuple[int, Mapping[str, Any] | str]

_LONGEST_ID = 512


@dataclass(frozen=True)
class Record:
    """A row that a task can work on.

    Attributes
    ----------
    id : str or int
    place : int
        Its number in the input, from 1.
    fields : mapping
        Its other fields; of OpenAI's format, those of the body.
    url : str
        The endpoint, in OpenAI's format; empty for a plain record.
    """

    id: Name
    place: int
    fields: Mapping[str, Any]
    url: str = ""


@dataclass(frozen=True)
class Bad:
    """A row without an answer.

    Attributes
    ----------
    id : str, int or None
        None if it could not be read.
    place : int
    reason : str
    url : str
        As of a Record.
    """

    id: Name | None
    place: int
    reason: str
    url: str = ""

    @classmethod
    def of(cls, record: Record, error: Exception) -> Bad:
        """Return a record that failed with an error."""
        return cls(record.id, record.place, str(error), record.url)

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the error file."""
        if self.url:
            return openai_format.failure(self.id, self.place, self.reason)
        return {"id": self.id, "line": self.place, "error": self.reason}


@dataclass(frozen=True)
class Block:
    """Consecutive rows of the input, whose answers are one file."""

    number: int
    records: list[Record]
    bad: list[Bad]


@dataclass
class Totals:
    """Sums over records.

    Attributes
    ----------
    answers, bad : int
        Records with an answer, and without.
    read_tokens, generated_tokens : int
    predicted_tokens, text_bytes : int
        Tokens whose probability was scored, and their length.
    nats : float
        Sum of -ln p over them.
    """

    answers: int = 0
    bad: int = 0
    read_tokens: int = 0
    generated_tokens: int = 0
    predicted_tokens: int = 0
    text_bytes: int = 0
    nats: float = 0.0


@dataclass
class Done:
    """A block that is complete.

    Attributes
    ----------
    block : Block
    answers : dict of int to mapping
        By the place of the record.
    bad : list of Bad
    totals : Totals
        Of tokens; the records are counted by :meth:`finish`.
    """

    block: Block
    answers: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.bad += self.block.bad

    @property
    def complete(self) -> bool:
        """Whether every record has an answer or a reason why not."""
        return len(self.answers) + len(self.bad) == len(self.block.records) + len(self.block.bad)

    def finish(self) -> Done:
        """Sort the answers and bad rows by their places, and count them."""
        self.answers = dict(sorted(self.answers.items()))
        self.bad.sort(key=lambda one: one.place)
        self.totals.answers, self.totals.bad = len(self.answers), len(self.bad)
        return self


def read_block(number: int, rows: Iterable[Row]) -> Block:
    """Return the records of rows, apart from those that cannot be records."""
    records: list[Record] = []
    bad: list[Bad] = []
    seen: dict[Name, int] = {}
    for place, row in rows:
        one = _read(place, row)
        if isinstance(one, Record) and one.id in seen:
            one = Bad(one.id, place, f"id: expected one of its own, got that of line {seen[one.id]}", one.url)
        if isinstance(one, Record):
            seen[one.id] = place
            records.append(one)
        else:
            bad.append(one)
    return Block(number, records, bad)


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)[:80]


def _read(place: int, row: Mapping[str, Any] | str) -> Record | Bad:
    if isinstance(row, str):
        return Bad(None, place, row)
    is_openai = "custom_id" in row
    key = "custom_id" if is_openai else "id"
    name = row.get(key)
    if isinstance(name, bool) or not isinstance(name, (str, int)) or (isinstance(name, str) and not name):
        return Bad(None, place, f"{key}: expected a string or an integer, got {_shown(name)}")
    if isinstance(name, str) and len(name) > _LONGEST_ID:
        return Bad(None, place, f"{key}: expected at most {_LONGEST_ID} characters, got {len(name)}")
    if not is_openai:
        return Record(name, place, {key: value for key, value in row.items() if key != "id" and value is not None})
    url, problem = openai_format.check_envelope(row)
    if problem:
        return Bad(name, place, problem, url)
    return Record(name, place, {key: value for key, value in row["body"].items() if value is not None}, url)
