"""``rwkv-cy chat``, through a pipe and through a pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.cli.chat_input import read_message

#: Seconds in which the chat has to answer.
PATIENCE = 300
SHORT = ("--max-tokens", "12", "--seed", "3")


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "rwkv_cy", "chat", *arguments]
        environment = os.environ | {"TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"}
        # A session of its own, whose terminal this is: Ctrl-C then reaches the chat.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LEADER, *command],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            start_new_session=True,
        )
        os.close(follower)
        self._leader = leader
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def wait_for(self, *texts: str) -> str:
        """Wait for texts in their order; return what was shown up to the end of the last one."""
        deadline, end = time.monotonic() + PATIENCE, 0
        for text in texts:
            while text not in self.shown[end:]:
                if not select.select([self._leader], [], [], max(0, deadline - time.monotonic()))[0]:
                    pytest.fail(f"expected {text!r} in {PATIENCE} s, got {self.shown!r}")
                try:
                    self.shown += os.read(self._leader, 4096).decode("utf-8", "replace")
                except OSError:  # the process has ended
                    pytest.fail(f"expected {text!r}, got the end after {self.shown!r}")
            end = self.shown.index(text, end) + len(text)
        before, self.shown = self.shown[:end], self.shown[end:]
        return before

    def interrupt_at_the_prompt(self) -> None:
        """Type Ctrl-C until something is shown.

        Python notices one that comes between the prompt and the wait for a key only with the next key.
        """
        deadline = time.monotonic() + PATIENCE
        self.type("\x03")
        while not select.select([self._leader], [], [], 1)[0]:
            assert time.monotonic() < deadline
            self.type("\x03")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._leader)


#: Makes its standard input its controlling terminal, and becomes the command.
_LEADER = (
    "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def open_chat() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def call(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield call
    for terminal in opened:
        terminal.close()


def test_a_chat_in_a_terminal(open_chat: Callable[..., Terminal], tmp_path: Path) -> None:
    chat = open_chat("--plain", *SHORT)
    chat.wait_for("kjv7.pth, format world; /help lists the commands", "> ")
    chat.type("Who art thou?\n")
    first = chat.wait_for("the limit that --max-tokens sets", "> ")
    chat.type("/regenerate\n")
    second = chat.wait_for("the limit that --max-tokens sets", "> ")
    assert first.split("\n")[1] != second.split("\n")[1]
    chat.type("/undo\n")
    chat.wait_for("taken back: Who art thou?", "> ")
    chat.type("Who art thou?\n")
    assert chat.wait_for("the limit that --max-tokens sets", "> ") == first
    chat.type("/nothing\n")
    chat.wait_for("rwkv-cy: error: /nothing: expected a command of /help", "> ")
    chat.type(f"/save {tmp_path / 'chat.json'}\n")
    chat.wait_for("2 messages", "> ")
    chat.type("/think maybe\n")
    chat.wait_for("/think: expected on, fake, off, got 'maybe'", "> ")
    chat.type("/system Be brief.\n")
    chat.wait_for("system: Be brief.", "> ")
    chat.type('"""one\ntwo"""\n')
    chat.wait_for("the limit that --max-tokens sets", "> ")
    chat.type("\x04")
    assert chat.process.wait(PATIENCE) == 0
    assert json.loads((tmp_path / "chat.json").read_text())["messages"][0]["content"] == "Who art thou?"


def test_ctrl_c_ends_the_answer_and_not_the_chat(open_chat: Callable[..., Terminal]) -> None:
    chat = open_chat("--plain", "--max-tokens", "1000000", "--ban", "10")  # without line feeds, it does not end
    chat.wait_for("> ")
    chat.type("Who art thou?\n")
    chat.wait_for("Who art thou?", "e")
    chat.type("\x03")
    chat.wait_for("stopped; /regenerate answers anew", "> ")
    chat.interrupt_at_the_prompt()
    chat.wait_for("Ctrl-D ends the chat", "> ")
    chat.type("/undo\n")
    chat.wait_for("taken back: Who art thou?", "> ")
    chat.type("\x04")
    assert chat.process.wait(PATIENCE) == 0


@pytest.mark.skipif(find_spec("prompt_toolkit") is None, reason="needs prompt_toolkit (the extra chat)")
def test_prompt_toolkit(open_chat: Callable[..., Terminal]) -> None:
    chat = open_chat(*SHORT)
    chat.wait_for("Ctrl-D ends the chat", ">")
    chat.type("Who\x1b\rart thou?\r")
    chat.wait_for("the limit that --max-tokens sets", ">")
    chat.type("/undo\r")
    chat.wait_for("taken back: Who", ">")
    chat.type("\x04")
    assert chat.process.wait(PATIENCE) == 0


def test_a_chat_through_a_pipe(spawn: Run, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    lines = f"Who?\n\n/save {saved}\n/help\n/think off\n/new\nWho?\n//Who?\n"
    result = spawn("chat", *SHORT, "--quiet", input=lines)
    assert (result.code, result.err) == (0, "")
    first, rest = result.out.split("\n", 1)
    assert f"\n{first}\n" in rest  # the new chat begins in the same way
    assert "/regenerate" in rest
    assert saved.exists()
    result = spawn("chat", *SHORT, "--load", saved, input="Where?\n")
    assert result.code == 0
    assert "2 messages\n" in result.err
    assert "read again" not in result.err
    result = spawn("chat", *SHORT, input="/load\nWho?\n")
    assert (result.code, result.out) == (1, "")
    assert "expected the name of a file, got none" in result.err


def test_a_closed_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    result = run("chat")
    assert result.code == 3
    assert "standard input: expected messages, got a closed stream" in result.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("one\n", "one"),
        ("one\\\ntwo\n", "one\ntwo"),
        ('"""one\n\ntwo\n"""\n', "one\n\ntwo"),
        ('"""\none"""\n', "one"),
        ('"""one"""\n', "one"),
        ("one", "one"),
        ("one\\\n", "one"),
        ("one\\\ntwo", "one\ntwo"),
        ('"""one\ntwo\n', "one\ntwo"),
        ('"""\n', ""),
    ],
)
def test_messages_of_several_lines(typed: str, message: str) -> None:
    """The end of the input ends a message: its beginning was lost without a word."""
    lines = io.StringIO(typed)

    def line(_: str) -> str:
        text = lines.readline()
        if not text:
            raise EOFError
        return text.rstrip("\n")

    assert read_message(line) == message
    assert lines.read() == ""
    with pytest.raises(EOFError):
        read_message(line)
