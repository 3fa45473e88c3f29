"""A JSON object that is printed as its values come, so that an array of any length takes bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any

__all__ = ["JsonObject"]


class JsonObject:
    """Context manager: a JSON object on standard output, in ASCII, member by member.

    After an exception the object is left incomplete, so that no program takes it for a whole one.
    """

    def __init__(self) -> None:
        self._separator = "{\n"

    def __enter__(self) -> JsonObject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            print("\n}" if self._separator != "{\n" else "{}")

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
    return json.dumps(value, allow_nan=False)
