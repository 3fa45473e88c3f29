"""Protection of other files: only a file of the same kind is replaced, complete or not."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.storage.schema import FORMAT_NAME, PAGE
from rwkv_cy.storage.signature import SIGNATURE

__all__ = ["check_replaceable"]

#: The attributes of the root group as HDF5 stores them, early in the first page: name, type and extent, value.
_ATTRIBUTES = rb"format\0.{0,40}?%s\0?.{0,40}?kind\0.{0,40}?%s"


def check_replaceable(path: str | os.PathLike[str], kind: str, hint: str = "") -> None:
    """Raise StorageError if `path` is a file with content that is not a file of `kind`.

    A file of `kind` that is damaged, truncated or unfinished may be replaced.

    Parameters
    ----------
    path : path-like
        Where a file of `kind` will be written, with permission to replace an existing one.
    kind : {"model", "state"}
    hint : str, optional
        For the message.

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
    if not _is_of_kind(path, kind):
        raise StorageError(f"{path} is not a {kind} file; choose another name{f' ({hint})' if hint else ''}")


def _is_of_kind(path: Path, kind: str) -> bool:
    try:
        with FileBytes(path) as file:
            head = file.read_at(0, min(file.size, PAGE))
    except FormatError:  # emptied meanwhile
        return True
    pattern = _ATTRIBUTES % (FORMAT_NAME.encode(), kind.encode())
    return head.startswith(SIGNATURE) and re.search(pattern, head, re.DOTALL) is not None
