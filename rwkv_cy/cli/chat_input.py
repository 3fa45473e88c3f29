"""Where the lines of a chat come from: a terminal, with prompt_toolkit or without, or a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from rwkv_cy.errors import StorageError

__all__ = ["is_terminal", "message_reader", "read_message"]

#: Around a message of several lines.
FENCE = '"""'
_PROMPT, _MORE = "> ", ". "

Reader = Callable[[], str]


def is_terminal() -> bool:
    """Tell whether a person types and reads."""
    return sys.stdin is not None and sys.stdout.isatty() and sys.stdin.isatty()


def message_reader(plain: bool) -> Reader:
    """Return a function that reads the next message; it raises EOFError at the end of the input.

    Parameters
    ----------
    plain : bool
        Not to use prompt_toolkit, if it is installed.

    Raises
    ------
    StorageError
        If standard input is closed.
    """
    if sys.stdin is None:
        raise StorageError("standard input: expected messages, got a closed stream; type them, or pass a file")
    if not is_terminal():
        return lambda: read_message(_piped_line)
    if not plain and find_spec("prompt_toolkit") is not None:
        return _toolkit_reader()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and the keys of an editor)
    return lambda: read_message(input)


def read_message(line: Callable[[str], str]) -> str:
    r"""Return a message of one line, or of several: lines that end in ``\``, or lines between two ``\"\"\"``.

    The end of the input ends a message that has begun.

    Parameters
    ----------
    line : callable
        Returns a line without its end; called with what a terminal shows in front of it.
    """
    first = line(_PROMPT)
    if first.strip().startswith(FENCE):
        return _fenced(first.strip()[len(FENCE) :], line)
    lines = [first]
    with contextlib.suppress(EOFError):
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(line(_MORE))
    return "\n".join(lines)


def _fenced(first: str, line: Callable[[str], str]) -> str:
    """Return the lines up to the one that ends in the fence."""
    lines = [first]
    with contextlib.suppress(EOFError):
        while not lines[-1].rstrip().endswith(FENCE):
            lines.append(line(_MORE))
        lines[-1] = lines[-1].rstrip()[: -len(FENCE)]
    return "\n".join(lines).strip("\n")


def _piped_line(_: str) -> str:
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "replace").rstrip("\r\n")


def _toolkit_reader() -> Reader:
    """Return a reader with prompt_toolkit: Enter sends, Alt-Enter begins a new line, pasted lines stay together."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    def new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    def send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    keys.add("escape", "enter")(new_line)
    keys.add("enter")(send)
    session: Any = PromptSession(key_bindings=keys, multiline=True, prompt_continuation=_MORE)
    return lambda: read_message(session.prompt)
