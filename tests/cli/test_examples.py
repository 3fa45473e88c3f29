"""The examples of every command's help run, in a folder with files of the names that they use."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_safetensors
from cli.conftest import Run
from formats.writers.gguf_models import write_source
from rwkv7_shapes import rwkv7_config
from rwkv_cy.cli.main import command_parser
from rwkv_cy.cli.parser import CommandParser
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.parts import shard


def commands() -> dict[str, CommandParser]:
    """Return the parsers of all commands, and of the program itself."""
    parser = command_parser()
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {"": parser, **subparsers.choices}


EXAMPLES = [(name, example) for name, parser in commands().items() for example in parser.examples]
#: Commands whose examples need a network or a library of others, run until they are stopped, or read what is typed.
REMOTE = ("pull", "serve", "chat", "eval")
LINE = re.compile(r"(?:cat (?P<input>\S+) \| )?(?P<command>rwkv-cy [^>|&]*?)(?: > \S+| && echo .*)?")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, kjv_checkpoint: Path) -> Path:
    """Return a folder with a checkpoint, model files, adapters of the model, parts, and a text."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(kjv_checkpoint, folder / "model.pth")
    convert(kjv_checkpoint, folder / "model.h5")
    shutil.copy(folder / "model.h5", folder / "copy.h5")
    convert(kjv_checkpoint, folder / "model-q8.h5", dtype="q8")
    (folder / "usb").mkdir()
    shard(folder / "model.h5", folder / "usb", part_size=1_000_000)
    for name in ("text.txt", "prompt.txt"):
        (folder / name).write_text("In the beginning God created the heaven and the earth.\n")
    (folder / "prompts.jsonl").write_text('{"id": "one", "prompt": "In the"}\n')
    (folder / "book.txt").write_text("In the beginning God created the heaven and the earth.\n" * 20)
    (folder / "examples.jsonl").write_text('{"text": "User: Why?\\n\\nAssistant: Because."}\n')
    factors = {"A": np.ones((4, 128), "f4"), "B": np.zeros((128, 4), "f4")}
    key = "blocks.1.att.key"
    write_safetensors(folder / "lora.pth", {f"{key}.lora_{factor}": array for factor, array in factors.items()})
    shutil.copy(folder / "lora.pth", folder / "pissa.pth")
    initial = {f"{key}.init_lora_{factor}": array for factor, array in factors.items()}
    write_safetensors(folder / "init_pissa.pth", initial)
    config = rwkv7_config(128, 2, 64, (8, 8, 8, 16), vocab_size=256)
    write_source(folder / "goose.pth", config)
    write_safetensors(folder / "state.pth", {"blocks.1.att.time_state": np.ones((2, 64, 64), "f4")})
    return folder


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_runs(
    run: Run,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    example: str,
    own_threads: None,
) -> None:
    match = LINE.fullmatch(example)
    assert match is not None
    words = shlex.split(match["command"])[1:]
    if "--steps" in words:
        words[words.index("--steps") + 1] = "1"  # the rest of a run would be the same
    if name in REMOTE:
        command_parser().parse_args(words)
        return
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    if words[0] != "help":
        target = Path(getattr(command_parser().parse_args(words), "target", None) or "none")
        target.unlink(missing_ok=True)
    if words[0] == "shard":
        shutil.rmtree("usb")
        Path("usb").mkdir()
    if match["input"]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(match["input"]).read_bytes())))
    result = run(*words)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(("name", "parser"), commands().items())
def test_every_command_has_examples_in_its_help(
    monkeypatch: pytest.MonkeyPatch, name: str, parser: CommandParser
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert 1 <= len(parser.examples) <= 3
    shown = parser.format_help()
    assert shown.endswith("examples:\n" + "".join(f"  {example}\n" for example in parser.examples))
    assert all(f"rwkv-cy {name}".strip() in example for example in parser.examples)


@pytest.mark.parametrize("columns", [50, 60, 80])
@pytest.mark.parametrize("parser", commands().values(), ids=list(commands()))
def test_help_is_wrapped(monkeypatch: pytest.MonkeyPatch, parser: CommandParser, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text, _, _ = parser.format_help().partition("examples:\n")
    # Names of options and their alternatives are not wrapped.
    assert [line for line in text.splitlines() if len(line) > columns and not re.search(r"[|{]", line)] == []


def test_tables_in_help_keep_their_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    out = run("--help").out
    assert "  1    the file is damaged or not supported, or\n       the request does not fit the model\n" in out
