"""Completion scripts: what they know, and what bash, zsh and fish make of them."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.cli.completion.command import _SCRIPTS
from rwkv_cy.cli.completion.tree import Option, Value, command_tree
from rwkv_cy.cli.main import command_parser

#: Seconds in which a shell has to answer.
PATIENCE = 300


def test_the_tree_is_that_of_the_parser() -> None:
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("--version", action="version", version="1", help="show the version; and exit")
    commands = parser.add_subparsers()
    convert = commands.add_parser("convert", help="convert a file (default: well)", add_help=False)
    convert.add_argument("source", metavar="SOURCE", type=Path)
    convert.add_argument("text", nargs="?")
    convert.add_argument("-d", "--dtype", choices=["q4", "q8"], help="100 %% of the type; more")
    convert.add_argument("--tokenizer", metavar="auto|none|FILE")
    convert.add_argument("--stop", action="append")
    convert.add_argument("--hidden", help=argparse.SUPPRESS)
    convert.add_argument("--force", action="store_true", help="it")
    program, (found, help_command) = command_tree(parser)
    assert [option.names for option in program.options] == [("-h", "--help"), ("--version",)]
    assert program.options[1].help == "show the version"
    assert program.arguments == (Value("COMMAND", ("convert", "help")),)
    assert (found.name, found.help) == ("convert", "convert a file")
    assert found.arguments == (Value("SOURCE", files=True), Value("TEXT", optional=True))
    assert found.options == (
        Option(("-d", "--dtype"), "100 % of the type", Value("DTYPE", ("q4", "q8")), False),
        Option(("--tokenizer",), "", Value("auto|none|FILE", ("auto", "none"), files=True), False),
        Option(("--stop",), "", Value("STOP"), True),
        Option(("--force",), "it", None, False),
    )
    assert help_command.arguments == (Value("COMMAND", ("convert",)),)


def test_every_path_is_completed() -> None:
    """A positional argument of a command is a path, a choice, or one of a few texts."""
    _, commands = command_tree(command_parser())
    others = {value.name for command in commands for value in command.arguments if not (value.files or value.words)}
    assert others <= {"PROMPT", "TEXT", "NAME", "WORD"}


@pytest.mark.parametrize("shell", _SCRIPTS)
def test_the_script_is_printed(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"written by: rwkv-cy completion {shell}\n" in result.out


def test_an_unknown_shell(run: Run) -> None:
    result = run("completion", "fisch")
    assert (result.code, "invalid choice: 'fisch'; did you mean fish?" in result.err) == (2, True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with files whose names begin alike and have spaces in them."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("model one.pth", "module.h5"):
        (folder / name).touch()
    (folder / "sub").mkdir()
    return folder


Complete = Callable[[str], str]


class Screen:
    """An interactive shell in a terminal of 300 columns.

    Parameters
    ----------
    command : list of str
    folder : Path
        Where it runs.
    setup : sequence of str
        Lines to run first.
    """

    def __init__(self, command: list[str], folder: Path, setup: list[str]) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300", "LINES": "50", "HOME": str(folder)}
            os.execvpe(command[0], command, environment)
        for line in setup:
            self.send(f"{line}\n")
        self.send("echo re''ady\n")
        self.read_until("ready")

    def send(self, text: str) -> None:
        """Type a text."""
        os.write(self._terminal, text.encode())

    def read_until(self, text: str) -> str:
        """Return what is printed up to a text."""
        seen, deadline = "", time.monotonic() + PATIENCE
        while text not in seen:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} did not come, but {seen!r}"
            seen += os.read(self._terminal, 65536).decode("utf-8", "replace")
        return seen

    def complete(self, line: str) -> str:
        """Return the line that Tab makes of the beginning of a line, as the shell runs it."""
        self.send(f"{line}\t")
        self.send("\x01echo '\x05' do''ne\n")
        seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x07", "", self.read_until("done"))
        return re.findall(r"^(.*?) +done$", seen, re.MULTILINE)[-1]

    def close(self) -> None:
        """End the shell."""
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")


@pytest.fixture
def script(run: Run, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes the script of a shell."""

    def write(shell: str) -> Path:
        path = tmp_path / f"script.{shell}"
        path.write_text(run("completion", shell).out)
        return path

    return write


def bash(script: Path, folder: Path) -> Callable[[str], list[str]]:
    """Return a function that lists what bash's function replies to a line, without file names."""
    program = f"""
source {script}
compopt() {{ shown=no; }}
read -r -a COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
shown=yes
_rwkv_cy
printf '%s\\n' "${{COMPREPLY[@]}}" "files=$shown"
"""

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", program, "bash", line],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stderr == ""
        return [word for word in done.stdout.splitlines() if word]

    return complete


def test_replies_of_bash(script: Callable[[str], Path], folder: Path) -> None:
    needs("bash")
    complete = bash(script("bash"), folder)
    assert complete("rwkv-cy con") == ["convert", "files=no"]
    assert {"convert", "help", "files=no"} <= set(complete("rwkv-cy "))
    assert complete("rwkv-cy --ver") == ["--version", "files=no"]
    assert complete("rwkv-cy help quant") == ["quantize", "files=no"]
    assert complete("rwkv-cy convert --dt") == ["--dtype", "files=no"]
    assert complete("rwkv-cy convert --dtype q") == ["q8", "q6", "q4", "q4n", "files=no"]
    assert complete("rwkv-cy convert --dtype = q") == ["q8", "q6", "q4", "q4n", "files=no"]
    assert complete("rwkv-cy convert --dtype =") == complete("rwkv-cy convert --dtype ")
    assert complete("rwkv-cy convert --tokenizer w") == ["world", "files=yes"]
    assert complete("rwkv-cy convert --tokenizer ./w") == ["files=yes"]
    assert complete("rwkv-cy convert ") == ["files=yes"]
    assert complete("rwkv-cy convert --dtype q8 a ") == ["files=yes"]
    assert complete("rwkv-cy convert --dtype = q8 a b ") == ["files=no"]
    assert complete("rwkv-cy generate --max-tokens ") == ["files=no"]
    assert complete("rwkv-cy completion z") == ["zsh", "files=no"]
    assert complete("rwkv-cy info ") == ["files=no"]


def test_replies_of_fish(script: Callable[[str], Path], folder: Path) -> None:
    needs("fish")
    path = script("fish")

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {path}; complete -C {line!r}"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "HOME": str(folder)},
        )
        assert done.stderr == ""
        return [word.split("\t")[0] for word in done.stdout.splitlines()]

    assert complete("rwkv-cy con") == ["convert"]
    assert complete("rwkv-cy convert --dt") == ["--dtype"]
    assert set(complete("rwkv-cy convert --dtype q")) == {"q4", "q4n", "q6", "q8"}
    assert complete("rwkv-cy convert --tokenizer wo") == ["world"]
    assert set(complete("rwkv-cy convert mod")) == {"model one.pth", "module.h5"}
    assert complete("rwkv-cy verify --against modu") == ["module.h5"]
    assert complete("rwkv-cy completion z") == ["zsh"]
    assert complete("rwkv-cy info mod") == []


@pytest.fixture(params=["bash", "zsh"])
def screen(request: pytest.FixtureRequest, script: Callable[[str], Path], folder: Path) -> Iterator[Screen]:
    """Return an interactive shell that has read its script."""
    shell = request.param
    needs(shell)
    source = f"source {script(shell)}"
    if shell == "bash":
        command, setup = ["bash", "--norc", "-i"], ["PS1=", "bind 'set enable-bracketed-paste off'", source]
    else:
        command, setup = (
            ["zsh", "-f", "-i"],
            ["PS1= PROMPT_EOL_MARK=", "bindkey -e", "autoload -U compinit && compinit -u -D", source],
        )
    opened = Screen(command, folder, setup)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("rwkv-cy conv", "rwkv-cy convert"),
        ("rwkv-cy convert --dt", "rwkv-cy convert --dtype"),
        ("rwkv-cy convert --dtype bf1", "rwkv-cy convert --dtype bf1"),
        ("rwkv-cy convert --dtype=ke", "rwkv-cy convert --dtype=keep"),
        ("rwkv-cy convert --tokenizer wo", "rwkv-cy convert --tokenizer world"),
        ("rwkv-cy convert modu", "rwkv-cy convert module.h5"),
        ("rwkv-cy convert model", "rwkv-cy convert model\\ one.pth"),
        ("rwkv-cy verify --against modu", "rwkv-cy verify --against module.h5"),
        ("rwkv-cy completion z", "rwkv-cy completion zsh"),
    ],
)
def test_tab_in_a_shell(screen: Screen, line: str, completed: str) -> None:
    assert screen.complete(line).rstrip("=") == completed
