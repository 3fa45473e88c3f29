"""docs/mistakes.md: what a new user does wrong, with real file names, and exactly what is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import write_safetensors, write_small
from pages import ROOT, Command, blocks, run_pipeline
from rwkv_cy.toolkit.convert import convert, quantize
from toolkit.adapters import draw

PAGE = ROOT / "docs" / "mistakes.md"
COMMANDS = [command for block in blocks(PAGE) for command in block.commands()]
LFS_POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 382153216
"""


def prepare(folder: Path, checkpoint: Path) -> None:
    """Write what the page says is in the folder."""
    data = checkpoint.read_bytes()
    (folder / "kjv.pth").write_bytes(data)
    convert(folder / "kjv.pth", folder / "kjv.h5")
    quantize(folder / "kjv.pth", folder / "kjv-q8.h5")
    convert(folder / "kjv.pth", folder / "kjv-bare.h5", tokenizer="none")
    (folder / "kjv-cut.pth").write_bytes(data[: len(data) // 2])
    (folder / "rwkv7-g1-0.1b.pth").write_text("<!DOCTYPE html>\n<html><title>Sign in</title></html>\n")
    (folder / "model.safetensors").write_text(LFS_POINTER)
    (folder / "text.txt").write_text("In the beginning\n")
    (folder / "empty.txt").touch()
    write_safetensors(
        folder / "lora.safetensors",
        {
            "blocks.0.att.key.lora_A": draw(4, 128),
            "blocks.0.att.key.lora_B": draw(128, 4),
        },
    )
    write_small(folder / "RWKV-4-World-0.1B.safetensors", vocab=300)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, kjv_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    prepare(folder, kjv_checkpoint)
    return folder


@pytest.fixture
def answer(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Command], str]:
    """Return what runs a command in the folder."""
    monkeypatch.chdir(prepared)
    return lambda command: run_pipeline(command, capsys)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line)
def test_the_answer_is_that_of_the_page(command: Command, answer: Callable[[Command], str], prepared: Path) -> None:
    before = contents(prepared)
    assert answer(command) == command.shown
    assert contents(prepared) == before


def test_there_are_twenty_at_least_and_none_succeeds() -> None:
    assert len(COMMANDS) >= 20
    assert all(command.code in (1, 2, 3) for command in COMMANDS)
    assert all("rwkv-cy: error: " in command.shown for command in COMMANDS)
    assert not any(line.startswith("usage:") for command in COMMANDS for line in command.shown.splitlines())
