"""Files that hold vocabularies: their usual names, the one of the ``rwkv`` package, and the last id in one."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from rwkv_cy.errors import MissingDependencyError

__all__ = [
    "FILE_NAMES",
    "VOCABULARY_FILE",
    "WORLD_SIZE",
    "WORLD_USED",
    "is_tokenizer_name",
    "is_world_name",
    "last_id",
    "packaged_vocabulary",
    "tokenizer_files",
]

#: Ids of the World vocabulary, and the most that any vocabulary of bytes has; 0 ends a text, and ids without a line
#: have no bytes.
WORLD_SIZE = 65_536
#: The last id of the World vocabulary that has bytes.
WORLD_USED = 65_529
VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"
#: Names of the World vocabulary, whose date may change; they say what is in the file. All begin with the first text.
_WORLD_BEGIN = "rwkv_vocab_v"
_WORLD_NAME = rf"{_WORLD_BEGIN}\d+\.(?:txt|json)"
#: Other names, in the order of preference: a vocabulary beside a tokenizer.json may be a part of it.
FILE_NAMES = ("tokenizer.json", "20B_tokenizer.json", "vocab.txt", "vocab.json")
#: More than the longest line of the published vocabulary.
_TAIL_BYTES = 1024
_LAST_LINE = rb"\n([1-9][0-9]{0,8}) b?(['\"]).*\2 [0-9]{1,9}\r?\n?\Z"


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files in a folder whose names are those of a tokenizer, the one to prefer first.

    These are ``rwkv_vocab_v*.txt`` and ``.json`` (the World vocabulary), ``tokenizer.json``, ``20B_tokenizer.json``,
    ``vocab.txt`` and ``vocab.json``; none if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            present = sorted(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return []
    world = sorted(filter(_is_world, present), key=lambda name: name.endswith(".json"))
    return [folder / name for name in (*world, *(name for name in FILE_NAMES if name in present))]


def is_tokenizer_name(name: str) -> bool:
    """Tell whether :func:`tokenizer_files` takes a file of this name for a tokenizer."""
    return name in FILE_NAMES or _is_world(name)


def is_world_name(path: Path) -> bool:
    """Tell whether a file has the name of the World vocabulary."""
    return _is_world(path.name)


def _is_world(name: str) -> bool:
    return name.startswith(_WORLD_BEGIN) and re.fullmatch(_WORLD_NAME, name) is not None


def last_id(path: Path) -> int | None:
    """Return the id in the last line of a vocabulary in the text format of World, without reading the others.

    None if the file cannot be read or ends in another way.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            match = re.search(_LAST_LINE, file.read(_TAIL_BYTES))
    except OSError:
        return None
    return None if match is None else int(match[1])


def packaged_vocabulary() -> Path:
    """Return the path of the vocabulary file in the ``rwkv`` package, without importing the package.

    Raises
    ------
    MissingDependencyError
        If the package is not installed, or has no such file.
    """
    try:
        spec = find_spec("rwkv")
    except ValueError:  # a loaded module of that name has no spec
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / VOCABULARY_FILE
        if path.is_file():
            return path
    raise MissingDependencyError(
        "the World vocabulary comes with the rwkv package, which is not installed: pip install rwkv, "
        f"or name the file {VOCABULARY_FILE} with --tokenizer FILE (tokenizer= in Python)"
    )
