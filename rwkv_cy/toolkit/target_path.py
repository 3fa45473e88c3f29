"""Targets of conversions and exports: a place that can be written, other than the source, and its free space."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.reading import FileBytes, require_folder
from rwkv_cy.formats.writers.base import ExportFormat

__all__ = ["check_folder", "check_kind", "check_target", "free_space", "is_model_folder"]

#: Enough for every signature.
_HEAD_BYTES = 512
#: Suffixes of the files that the folder of a model has.
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin", ".md", ".txt", ".jinja", ".model", ".py", ".gitattributes")
#: Those of weights. Without them, the others may be a program's.
_WEIGHTS_SUFFIXES = (".safetensors", ".bin")


def check_target(target: Path, sources: Set[Path]) -> bool:
    """Return whether the file `target` exists; StorageError if it cannot be written or is one of the sources."""
    require_folder(target.parent)
    if target.is_dir():
        raise StorageError(f"{target} is a folder; name a file in it")
    if not target.exists():
        return False
    if any(target.samefile(path) for path in sources if path.exists()):
        raise StorageError(f"{target} is the source itself; name another file")
    return True


def check_kind(target: Path, writer: ExportFormat) -> None:
    """Raise StorageError if `target` is a file with content that is not of the writer's format."""
    if not target.is_file() or target.stat().st_size == 0:
        return
    with FileBytes(target) as file:
        head = file.read_at(0, min(file.size, _HEAD_BYTES))
    if not writer.recognises(head):
        raise StorageError(
            f"{target}: expected a file of the format {writer.label} to replace, got another one; choose another name"
        )


def check_folder(target: Path, sources: Set[Path]) -> bool:
    """Return whether the folder `target` exists with something in it; StorageError if a source is in it."""
    require_folder(target.parent)
    if target.exists() and not target.is_dir():
        raise StorageError(f"{target} is a file, not a folder; choose another name")
    if not target.is_dir():
        return False
    folder = target.resolve()
    for source in sources:
        if source.exists() and source.resolve().is_relative_to(folder):
            raise StorageError(f"{target} is the folder of the source; name another one")
    return any(target.iterdir())


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder holds a model and nothing else: config.json, weights, files of the kinds beside them."""
    entries = list(path.iterdir())
    suffixes = {entry.suffix or entry.name for entry in entries}
    return (
        any(entry.name == "config.json" for entry in entries)
        and not suffixes.isdisjoint(_WEIGHTS_SUFFIXES)
        and suffixes.issubset(_MODEL_SUFFIXES)
        and all(entry.is_file() for entry in entries)
    )


def free_space(folder: Path) -> int:
    """Return the bytes that this user may still write in `folder`."""
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot determine its free space: {error.strerror}; check the path") from error
    return status.f_bavail * status.f_frsize
