"""Protection of other files: only a file of the same kind is replaced."""

from __future__ import annotations

import os
from pathlib import Path

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.storage.checked_file import CheckedFile

__all__ = ["check_replaceable"]


def check_replaceable(path: str | os.PathLike[str], kind: str) -> None:
    """Raise StorageError if `path` is a file with content that is not a file of `kind`.

    Parameters
    ----------
    path : path-like
        Where a file of `kind` will be written, with permission to replace an existing one.
    kind : {"model", "state"}

    Raises
    ------
    StorageError
        If replacing the file would destroy something else, or the operating system refuses to read it.
    """
    path = Path(path)
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return  # nothing to lose; what is not a regular file is refused when it is written
    except (OSError, ValueError):  # reported when it is written
        return
    try:
        with CheckedFile(path, None) as file:
            found = file.kind
    except FormatError:
        found = ""
    if found != kind:
        raise StorageError(f"{path} is not a {kind} file; choose another name")
