"""Files of a run before it begins: its texts, its target, and its folder, which one process works on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rwkv_cy.errors import RWKVError, StorageError
from rwkv_cy.files.locks import lock_folder
from rwkv_cy.files.reading import os_errors
from rwkv_cy.storage import check_replaceable
from rwkv_cy.training.data import check_texts
from rwkv_cy.training.tensor_file import check_suffix

__all__ = ["check_apart", "check_files", "run_folder"]

PathLike = str | os.PathLike[str]


@contextmanager
def run_folder(folder: Path) -> Iterator[Callable[[], None]]:
    """Make the folder of a run and lock it; if it is new and the run has not begun, remove it after an error.

    Yields what says that the run has begun.
    """
    new, begun = True, False
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder}: expected a folder, or none yet, got a file; choose another --folder (folder=)")

    def begin() -> None:
        nonlocal begun
        begun = True

    with os_errors(folder, "create"):
        try:
            folder.mkdir()
        except FileExistsError:
            new = False
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock_folder(folder, descriptor, "--folder (folder=)")
        yield begin
    except RWKVError:
        if new and not begun:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def check_files(
    method: str, data: Sequence[Path], target: Path, *, held_out: PathLike | None = None, overwrite: bool = False
) -> None:
    """Raise an error if texts cannot be read or the result could not be written, before hours of work.

    Parameters
    ----------
    method : {"state", "lora", "full"}
    data : sequence of Path
    target : Path
    held_out : path, optional
    overwrite : bool, default False
        Whether an existing file at `target` is replaced.

    Raises
    ------
    ConfigError
        If the suffix is not one of the files of that method.
    FormatError
        If a text is empty.
    StorageError
        If the operating system reports an error, or `target` is there or is one of the texts.
    """
    texts = [*data, *([] if held_out is None else [Path(held_out)])]
    check_apart(target, texts)
    if method != "full":
        check_suffix(target)
    elif overwrite:
        check_replaceable(target, "model")
    if target.exists() and not overwrite:
        raise StorageError(f"{target} already exists; choose another name or pass --force (overwrite=True)")
    if target.is_dir():
        raise StorageError(f"{target} is a directory, not a regular file; choose another name")
    if not target.absolute().parent.is_dir():
        raise StorageError(f"{target}: expected an existing folder {target.parent}, got none; create it")
    if not os.access(target.absolute().parent, os.W_OK):
        raise StorageError(f"{target}: expected a folder that can be written to, got {target.parent}; choose another")
    check_texts(texts)


def check_apart(target: Path, read: Sequence[PathLike]) -> None:
    """Raise StorageError if `target` is one of the files that a run reads."""
    for path in read:
        try:
            same = target.samefile(path)
        except OSError:  # one of them does not exist
            continue
        if same:
            raise StorageError(f"{target}: expected a new file, got one that this run reads; choose another name")
