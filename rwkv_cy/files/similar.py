"""The file that a user may have meant by a name that does not exist."""

from __future__ import annotations

import os
import re
from itertools import islice
from pathlib import Path

__all__ = ["is_shard", "similar_path"]

#: In the name of a file that holds a part of a model: ``model-00001-of-00002.safetensors``.
_SHARD = r"-[0-9]{5}-of-[0-9]{5}"

#: Suffixes of files that hold weights or states. What is meant by such a name has one of them or none, or is a list of
#: shards or a folder, whose name may have a dot (``G1-0.1B``); it is not a report, a log or a text.
_WEIGHTS = (".h5", ".hdf5", ".pth", ".pt", ".safetensors", ".st", ".gguf", ".bin", ".state")
_LIST = ".index.json"

#: Entries of a folder that are looked at.
_MOST_ENTRIES = 10_000
_SIMILARITY = 0.75
#: Parts of a path, beyond which nothing is looked for: each missing folder is a step of the recursion.
_MOST_PARTS = 100


def is_shard(name: str) -> bool:
    """Tell whether a file of this name holds a part of a model."""
    return re.search(_SHARD, name) is not None


def similar_path(path: Path) -> Path | None:
    """Return an existing path that a user may have meant by `path`, which does not exist; None if nothing is similar.

    In this order: the same name in other letters, with a suffix or another one (``model`` for ``model.h5``), as the
    beginning of shards, or with a few letters changed. A folder that does not exist may be another one as well. A shard
    of another number is not meant.
    """
    return _similar(path, folders=False) if len(path.parts) <= _MOST_PARTS else None


def _similar(path: Path, *, folders: bool) -> Path | None:
    """Return a similar path; with `folders`, one of a folder."""
    names = _names(path.parent, folders)
    if names is None:
        folder = _similar(path.parent, folders=True) if path.parent != path else None
        meant = None if folder is None else folder / path.name
        return meant if meant is not None and os.path.exists(meant) else None  # noqa: PTH110 (any name)
    if path.suffix.lower() in _WEIGHTS and not folders:
        names = [name for name in names if _may_hold_weights(path.with_name(name))]
    name = _similar_name(path.name, names)
    return None if name is None else path.with_name(name)


def _may_hold_weights(path: Path) -> bool:
    return path.suffix.lower() in ("", *_WEIGHTS) or path.name.endswith(_LIST) or os.path.isdir(path)  # noqa: PTH112


def _similar_name(name: str, names: list[str]) -> str | None:
    lower, stem = name.lower(), Path(name).stem.lower()
    for fits in (
        lambda other: other.lower() == lower,
        lambda other: other.lower().startswith(f"{lower}."),
        lambda other: Path(other).stem.lower() == stem,
        lambda other: other.lower().startswith(f"{stem}-00001-of-"),
    ):
        found = next(filter(fits, names), None)
        if found is not None:
            return found
    from difflib import get_close_matches  # imported here: few runs need it

    if is_shard(name):
        names = [other for other in names if re.sub(_SHARD, "", other) != re.sub(_SHARD, "", name)]
    return next(iter(get_close_matches(name, names, 1, _SIMILARITY)), None)


def _names(folder: Path, folders: bool) -> list[str] | None:
    """Return the names in a folder, of folders or of everything, without hidden ones; None if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            first = [entry for entry in islice(entries, _MOST_ENTRIES) if not entry.name.startswith(".")]
            return sorted(entry.name for entry in first if entry.is_dir() or not folders)
    except (OSError, ValueError):
        return None
