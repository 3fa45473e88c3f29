"""A JSON object that is printed as its values come, so that an array of any length takes bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rwkv_cy.toolkit.schema_names import named, unicode_only

__all__ = ["JsonObject"]


class JsonObject:
    """Context manager: a JSON object on standard output, in ASCII, member by member; the name of its schema is first.

    `kind` is what :func:`rwkv_cy.toolkit.schema_names.named` takes.

    After an exception the object is left incomplete, so that no program takes it for a whole one.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._separator = "{\n"

    def __enter__(self) -> JsonObject:
        for name, value in named(self._kind, {}).items():
            self.member(name, value)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            print("\n}")

    def member(self, name: str, value: Any) -> None:
        """Print a member whose value is in memory."""
        self._begin(name)
        print(_encoded(value), end="")

    def array(self, name: str, values: Iterable[Any]) -> None:
        """Print a member whose value is an array, one line for each of its values."""
        self._begin(name)
        separator = "[\n"
        for value in values:
            print(f"{separator}    {_encoded(value)}", end="")
            separator = ",\n"
        print("[]" if separator == "[\n" else "\n  ]", end="")

    def _begin(self, name: str) -> None:
        print(f"{self._separator}  {json.dumps(name)}: ", end="")
        self._separator = ",\n"


def _encoded(value: Any) -> str:
    return json.dumps(unicode_only(value), allow_nan=False)
