"""The operations that write files: what each reads, what it writes, and how the command runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from checkpoints import random_checkpoint, write_safetensors
from rwkv7_shapes import rwkv7_config
from rwkv_cy import LanguageModel, RWKVError, load
from rwkv_cy.cli.exit_codes import exit_code
from rwkv_cy.cli.main import main
from toolkit.adapters import draw

__all__ = ["OPERATIONS", "Operation", "make_sources"]

CONFIG = rwkv7_config(64, 2, 64, (8, 8, 8, 8), vocab_size=256)
#: The files of weights that an operation reads: those of the older target, and of the new one.
OLD, NEW = "old.safetensors", "new.safetensors"
_SEEDS = {OLD: 1, NEW: 2}
_PART_BYTES = 30_000
#: What the commands import when they run: every child that is forked has it.
_LATER = ("storage.skeleton", "toolkit.convert", "toolkit.export", "toolkit.merge", "toolkit.parts")


@dataclass(frozen=True)
class Operation:
    """An operation that writes files.

    Attributes
    ----------
    name : str
    target : str
        Name of the file or folder that it writes; for several files, of the folder that they are in.
    run : callable
        ``run(source, target, force)`` returns the exit code.
    several : bool
        Whether it writes several files, each complete or not at all, the last of which is a list of the others.
    replaces : bool
        Whether it can replace an older target.
    """

    name: str
    target: str
    run: Callable[[Path, Path, bool], int]
    several: bool = False
    replaces: bool = True


def make_sources(folder: Path) -> None:
    """Write what the operations read into `folder`, and import what they need."""
    for module in _LATER:
        import_module(f"rwkv_cy.{module}")
    for name, seed in _SEEDS.items():
        source = write_safetensors(folder / name, random_checkpoint(CONFIG, seed, optional=False))
        main(["shard", str(source), str(folder), "--size", str(_PART_BYTES), "--quiet"])
    adapter = {"blocks.1.att.key.lora_A": draw(4, 64), "blocks.1.att.key.lora_B": draw(64, 4)}
    write_safetensors(folder / "adapter.safetensors", adapter)


def _command(*words: str) -> Callable[[Path, Path, bool], int]:
    def run(source: Path, target: Path, force: bool) -> int:
        places: Mapping[str, Path] = {"source": source, "target": target, "folder": source.parent}
        return main([word.format(**places) for word in words] + ["--force"] * force)

    return run


def _api(work: Callable[[Path, Path, bool], None]) -> Callable[[Path, Path, bool], int]:
    def run(source: Path, target: Path, force: bool) -> int:
        try:
            work(source, target, force)
        except RWKVError as error:
            os.write(2, f"{error}\n".encode())
            return exit_code(error)
        return 0

    return run


def _initialise(source: Path, target: Path, force: bool) -> None:
    LanguageModel.new(CONFIG, _SEEDS[source.name]).save(target, overwrite=force)


def _save_state(source: Path, target: Path, force: bool) -> None:
    with load(source, mmap=False) as model:
        _, state = model.forward([1, 2, 3])
    state.save(target, overwrite=force)


def _export(name: str, suffix: str) -> Operation:
    words = ("export", "{source}", "{target}", "--format", name, "--tokenizer", "none", "--quiet")
    return Operation(f"export to {name}", f"model{suffix}", _command(*words))


OPERATIONS = (
    Operation("convert", "model.h5", _command("convert", "{source}", "{target}", "--tokenizer", "bytes", "--quiet")),
    Operation(
        "quantize",
        "model.h5",
        _command("quantize", "{source}", "{target}", "--dtype", "q4", "--tokenizer", "bytes", "--quiet"),
    ),
    Operation(
        "merge",
        "model.h5",
        _command(
            *("merge", "{source}", "{folder}/adapter.safetensors", "{target}"),
            *("--alpha", "8", "--tokenizer", "bytes", "--quiet"),
        ),
    ),
    _export("pth", ".pth"),
    _export("safetensors", ".safetensors"),
    _export("st", ".st"),
    _export("gguf", ".gguf"),
    _export("rwkvcpp", ".bin"),
    _export("huggingface", ""),
    Operation(
        "shard",
        "parts",
        _command("shard", "{source}", "{target}", "--size", str(_PART_BYTES), "--quiet"),
        several=True,
        replaces=False,
    ),
    Operation("join", "whole", _command("join", "{source}.parts.json", "{target}", "--quiet"), replaces=False),
    Operation("LanguageModel.new, save", "model.h5", _api(_initialise)),
    Operation("State.save", "state.h5", _api(_save_state)),
)
