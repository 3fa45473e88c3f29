"""The file of a page: checked before the work begins, written complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rwkv_cy.errors import StorageError
from rwkv_cy.files.reading import FileBytes, new_file_path
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.toolkit.pages.skeleton import MARK
from rwkv_cy.toolkit.target_path import check_target

__all__ = ["write_page"]


def write_page(
    target: str | os.PathLike[str], sources: Iterable[Path], make: Callable[[], str], *, overwrite: bool
) -> int:
    """Write the text that `make` returns to a file, and return its size in bytes.

    Whether the target can be written is checked before `make` is called.

    Parameters
    ----------
    target : path
    sources : iterable of Path
        Files that the page describes, which it must not replace.
    make : callable
        Returns the page.
    overwrite : bool
        Whether the page may replace an older one.

    Raises
    ------
    StorageError
        If the target exists and may not be replaced or is not a page of this package, is one of the sources, or cannot
        be written.
    """
    path = new_file_path(target)
    check_target(path, set(sources))
    if overwrite and path.is_file() and path.stat().st_size:
        _check_page(path)
    with Replacement(path, overwrite=overwrite) as file:
        data = make().encode()
        file.reserve(len(data))
        file.write_at(0, data)
        file.commit()
    return len(data)


def _check_page(path: Path) -> None:
    """Raise StorageError if a file that is not empty is not a page of this package."""
    expected = MARK.encode()
    with FileBytes(path) as file:
        if file.size < len(expected) or file.read_at(0, len(expected)) != expected:
            raise StorageError(
                f"{path}: expected a report of rwkv-cy to replace, got another file; choose another name"
            )
