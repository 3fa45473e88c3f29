"""Calls of tools: reads the JSON that a model writes, and passes the arguments on as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

__all__ = ["CallReader"]

#: The usual beginning of a call; after it the arguments can be passed on before they are complete.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\\n]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
#: The same as a grammar of calls writes it.
_EXACT_HEAD = re.compile(r'\s*\{\s*"name"\s*: ?("(?:[^"\\\n]|\\.)*"), "arguments": (?=\{)')
_ARGUMENTS = ("arguments", "parameters")


class CallReader:
    """Reads one JSON object, or an array of objects, with ``name`` and ``arguments``.

    Parameters
    ----------
    tools : collection of str
        Names that are accepted.
    exact : bool, default False
        Accept only the form that a :class:`rwkv_cy.chat.CallGrammar` writes.

    Attributes
    ----------
    text : str
        What it has read.
    complete : bool
        Whether the JSON is complete and was a call.
    refused : bool
        Whether it is not a call; `rest` is then all of the text.
    rest : str
        Text after the call.
    """

    def __init__(self, tools: Collection[str], *, exact: bool = False) -> None:
        self._tools = tools
        self._exact = exact
        self.text = ""
        self._place = 0  # characters whose nesting is known
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._arguments: int | None = None  # where the arguments that are passed on begin
        self._sent = 0
        self._open = True  # whether the arguments go on
        self.complete = False
        self.refused = False
        self.rest = ""

    def push(self, text: str) -> list[tuple[str, str]]:
        """Take a piece; return pairs: ``("name", name)`` at the beginning of a call, ``("arguments", text)`` after."""
        self.text += text
        if self.text.lstrip()[:1] not in ("", "{", "["):
            return self._refuse()
        pieces: list[tuple[str, str]] = []
        if self._arguments is None:
            head = (_EXACT_HEAD if self._exact else _HEAD).match(self.text)
            name = _string(head[1]) if head else None
            if head and name in self._tools:
                self._arguments = self._sent = head.end()
                pieces.append(("name", str(name)))
        end = self._scan()
        if self._arguments is not None:
            if self._sent < end:
                pieces.append(("arguments", self.text[self._sent : end]))
                self._sent = end
        elif self.complete:
            return self._whole()
        return pieces

    def finish(self) -> list[tuple[str, str]]:
        """End the text: a call whose name is not known yet is not one."""
        if self._arguments is None and not self.complete:
            self._refuse()
        return []

    def _refuse(self) -> list[tuple[str, str]]:
        self.refused, self.complete, self.rest = True, False, self.text
        return []

    def _scan(self) -> int:
        """Follow the nesting of the new characters; return where the arguments end so far."""
        end = self._sent if not self._open else len(self.text)
        while self._place < len(self.text) and not self.complete:
            char = self.text[self._place]
            self._place += 1
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._quoted = False
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                inside = self._arguments is not None and self._place > self._arguments
                if self._open and inside and self._depth == 1:
                    self._open, end = False, self._place
                if self._depth == 0:
                    self.complete = True
        if self.complete:
            self.rest = self.text[self._place :]
        return end

    def _whole(self) -> list[tuple[str, str]]:
        """Read a call that is complete, of whatever order of keys."""
        if self._exact:
            return self._refuse()
        try:
            value: Any = json.loads(self.text[: self._place])
        except (ValueError, RecursionError):
            return self._refuse()
        pieces: list[tuple[str, str]] = []
        for call in value if isinstance(value, list) else [value]:
            name = call.get("name") if isinstance(call, dict) else None
            if not isinstance(name, str) or name not in self._tools:
                return self._refuse()
            pieces += [("name", name), ("arguments", _arguments(call))]
        return pieces or self._refuse()


def _arguments(call: dict[str, Any]) -> str:
    """Return the arguments of a call as JSON text; some models write them as a string of JSON."""
    value: Any = next((call[key] for key in _ARGUMENTS if key in call), {})
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _string(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None
