"""What is measured beside the package: the programs that run a version, with a file for each of their types."""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import SHAPES, cached_checkpoint
from benchmarks.foreign_files import (
    LLAMACPP_TYPES,
    RWKVCPP_TYPES,
    cached_gguf,
    cached_huggingface,
    cached_rwkvcpp,
)
from benchmarks.rwkvcpp import Library, library_argument

__all__ = ["Row", "peer_arguments", "peer_notes", "peer_rows"]

#: Versions that each program runs and that are measured beside it.
_VERSIONS = {
    "plain NumPy": {"rwkv4"},
    "rwkv": {"rwkv4", "rwkv7"},
    "transformers": {"rwkv4"},
    "rwkv.cpp": {"rwkv4", "rwkv5.0", "rwkv5.1", "rwkv5.2", "rwkv6", "rwkv7"},
    "llama.cpp": {"rwkv6", "rwkv7"},
}
_TORCH_TYPES = ("f32", "bf16")


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    contender: str
    label: str
    dtype: str
    path: Path
    python: str | None = None
    library: Path | None = None


def peer_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name other programs."""
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has torch, rwkv and transformers")
    library_argument(parser)
    parser.add_argument("--llama-python", metavar="PATH", help="a Python that has llama-cpp-python: adds llama.cpp")


def peer_rows(shape: str, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Return the rows of the programs that run this shape, of those that are named; their files are written first."""
    version = SHAPES[shape].architecture
    checkpoint = cached_checkpoint(shape, "f32", folder)
    python, library, llama = arguments.peer_python, arguments.rwkvcpp_library, arguments.llama_python
    rows = []
    if version in _VERSIONS["plain NumPy"]:
        rows.append(Row("numpy", "plain NumPy", "f32", checkpoint))
    if python and version in _VERSIONS["rwkv"]:
        contender = "rwkv, version 7" if version == "rwkv7" else "rwkv"
        rows += [Row(contender, "rwkv", dtype, checkpoint, python) for dtype in _TORCH_TYPES]
    if python and version in _VERSIONS["transformers"]:
        hub = cached_huggingface(f"{shape}-f32", lambda: checkpoint, folder)
        rows += [Row("transformers", "transformers", dtype, hub, python) for dtype in _TORCH_TYPES]
    if library and version in _VERSIONS["rwkv.cpp"]:
        for dtype in RWKVCPP_TYPES:
            path = cached_rwkvcpp(shape, lambda: checkpoint, dtype, folder, library)
            rows.append(Row("rwkv.cpp", "rwkv.cpp", dtype, path, library=library))
    if llama and version in _VERSIONS["llama.cpp"]:
        for dtype in LLAMACPP_TYPES:
            path = cached_gguf(shape, lambda: checkpoint, dtype, folder)
            rows.append(Row("llama.cpp", "llama.cpp", dtype, path, llama))
    return rows


def peer_notes(shape: str, arguments: argparse.Namespace) -> list[str]:
    """Return what each program's build says of itself, and which were not named or do not run this version."""
    version, notes = SHAPES[shape].architecture, []
    given = {
        "rwkv": ("--peer-python", arguments.peer_python),
        "transformers": ("--peer-python", arguments.peer_python),
        "rwkv.cpp": ("--rwkvcpp-library", arguments.rwkvcpp_library),
        "llama.cpp": ("--llama-python", arguments.llama_python),
    }
    for label, (option, value) in given.items():
        if version not in _VERSIONS[label]:
            notes.append(f"{label}: not measured with this version.")
        elif not value:
            notes.append(f"{label}: not measured; name it with {option}.")
    if arguments.rwkvcpp_library and version in _VERSIONS["rwkv.cpp"]:
        notes.append(f"rwkv.cpp: a library that says of itself {Library(arguments.rwkvcpp_library).system}.")
    if arguments.llama_python and version in _VERSIONS["llama.cpp"]:
        words = (arguments.llama_python, "-m", "benchmarks.llamacpp")
        said = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        notes.append(f"llama.cpp: llama-cpp-python {said.stdout.strip()}")
    return notes
