"""Fenced blocks of the README and of docs/: found, run, and compared with what the page shows."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from rwkv_cy.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^(?P<mark><!-- [^\n]* -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_A_FILE = "<!-- needs a file of yours -->"
#: "# exit code 1" behind a command.
EXIT_CODE = re.compile(r"# exit code (\d+)\s*$")
#: Compares what a page shows with what was printed; "..." stands for anything.
SHOWN = OutputChecker()


class Command(NamedTuple):
    """A command line of a console block, and what stands below it."""

    line: str
    shown: str

    @property
    def code(self) -> int:
        """The exit code that the page gives; 0 if none."""
        match = EXIT_CODE.search(self.line)
        return int(match[1]) if match else 0

    def stages(self) -> list[list[str]]:
        """Return the words of each program of a pipeline; a redirection is the word ``<`` or ``>`` and a file."""
        lexer = shlex.shlex(EXIT_CODE.sub("", self.line), posix=True, punctuation_chars="|<>")
        lexer.whitespace_split = True
        stages: list[list[str]] = [[]]
        for word in lexer:
            if word == "|":
                stages.append([])
            else:
                stages[-1].append(word)
        return stages


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    runs: bool

    def commands(self) -> Iterator[Command]:
        """Give each command of a console block, and the output that stands below it."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield Command(line, shown)


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(match["language"], match["text"], (match["mark"] or "").strip() != NEEDS_A_FILE)
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]


def run_python(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page from top to bottom, and return the names that they leave."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.runs and block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
    return names


def run_commands(page: Path, capsys: pytest.CaptureFixture[str], *, strict: bool = False) -> list[str]:
    """Run the commands of a page, compare what they print with what the page shows, and return their names.

    Below a command, nothing means that nothing is printed if `strict`, or that it is left out.
    A command that is not ours is not run, unless it is ``cat`` or ``echo`` in front of ours.
    """
    ran = []
    for block in blocks(page):
        for command in block.commands() if block.runs else ():
            if not any(words[0] == "rwkv-cy" for words in command.stages()):
                continue
            printed = run_pipeline(command, capsys)
            if command.shown or strict:
                assert SHOWN.check_output(command.shown, printed, ELLIPSIS), f"$ {command.line}\n{printed}"
            ran += [words[1] for words in command.stages() if words[0] == "rwkv-cy"]
    return ran


def run_pipeline(command: Command, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line, check its exit code, and return what a terminal shows: its output, then its messages."""
    data, messages, code = b"", "", 0
    for words in command.stages():
        words, redirected = _redirections(words)
        if "<" in redirected:
            data = redirected["<"].read_bytes()
        if words[0] == "rwkv-cy":
            code, out, err = run_command(words[1:], data, capsys)
            data, messages = out.encode(), messages + err
        elif words[0] == "cat":
            data = b"".join(Path(name).read_bytes() for name in words[1:])
        else:
            assert words[0] == "echo", command.line
            data = f"{' '.join(words[1:])}\n".encode()
        if ">" in redirected:
            redirected[">"].write_bytes(data)
            data = b""
    assert code == command.code, f"$ {command.line}\n{messages}"
    printed = data.decode()
    if printed and not printed.endswith("\n"):
        printed += "\n"  # as on a terminal
    return printed + messages


def _redirections(words: list[str]) -> tuple[list[str], dict[str, Path]]:
    own, redirected, rest = [], {}, iter(words)
    for word in rest:
        if word in ("<", ">"):
            redirected[word] = Path(next(rest))
        else:
            own.append(word)
    return own, redirected


class _Input(NamedTuple):
    buffer: io.BytesIO


def run_command(words: list[str], data: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, its output and its messages."""
    capsys.readouterr()
    with patch.object(sys, "stdin", _Input(io.BytesIO(data))):
        try:
            code = main(words)
        except SystemExit as error:
            code = int(error.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
