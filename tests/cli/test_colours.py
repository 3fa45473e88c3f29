from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.cli import output
from rwkv_cy.cli.colours import styled
from rwkv_cy.toolkit.convert import convert


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the environment of the tests says about colours."""
    for name in ("NO_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_shows_colours_and_a_pipe_does_not() -> None:
    assert styled("ok", "ok", Terminal()) == "\x1b[32mok\x1b[0m"
    assert styled("ok", "ok", io.StringIO()) == "ok"
    assert styled("", "ok", Terminal()) == ""


@pytest.mark.parametrize(
    ("name", "value", "terminal", "pipe"),
    [
        ("NO_COLOR", "1", False, False),
        ("NO_COLOR", "", True, False),
        ("TERM", "dumb", False, False),
        ("CLICOLOR_FORCE", "1", True, True),
        ("CLICOLOR_FORCE", "0", True, False),
    ],
)
def test_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, terminal: bool, pipe: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert (styled("x", "error", Terminal()) != "x") is terminal
    assert (styled("x", "error", io.StringIO()) != "x") is pipe


def test_no_color_is_stronger_than_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    assert styled("x", "error", Terminal()) == "x"


def test_errors_are_red_and_warnings_yellow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    output.print_error("a \x1b")
    output.print_warning("b")
    assert terminal.getvalue() == "\x1b[1;31mrwkv-cy: error:\x1b[0m a \\x1b\n\x1b[33mrwkv-cy: warning:\x1b[0m b\n"


def test_ok_is_green(run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(small, tmp_path / "m.h5")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run("verify", tmp_path / "m.h5", "--no-progress").code == 0
    assert terminal.getvalue().endswith("result        \x1b[32mok\x1b[0m\n")


def test_the_prompt_is_dim(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert run("generate", "--prompt", "And", "-n", "0").code == 0
    assert terminal.getvalue() == "\x1b[2mAnd\x1b[0m\n"


def test_fields_are_wrapped_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    output.print_fields({"name": "one, two, three, four", "sha256": "0123456789abcdef0123"}, {"name": "ok"})
    lines = terminal.getvalue().splitlines()
    assert lines == [
        "name    \x1b[32mone, two, three,\x1b[0m",
        "        \x1b[32mfour\x1b[0m",
        "sha256  0123456789abcdef0123",
    ]
