"""Checks of the file that a command writes, before anything is read: it may exist, or be the source by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from rwkv_cy.cli.output import print_warning
from rwkv_cy.errors import StorageError
from rwkv_cy.files.similar import similar_path

__all__ = ["check_export_target", "check_model_target", "refuse_swapped"]

#: Suffixes of checkpoints and of other programs' model files, and of those of this package.
_FOREIGN_SUFFIXES = (".pth", ".pt", ".safetensors", ".st", ".bin", ".gguf")
_OWN_SUFFIXES = (".h5", ".hdf5")
_ADVICE = "choose another name or pass --force"


def refuse_swapped(source: Path, target: Path, names: str = "SOURCE and TARGET") -> None:
    """Raise StorageError if `source` does not exist and the file `target` does: they are probably swapped.

    Not if another file has a name similar to that of `source`: then opening it says so.
    """
    if not target.is_file() or source.exists() or ":" in str(source):  # "hf:owner/name" is not a path
        return
    if similar_path(source) in (None, target):
        raise StorageError(f"{source}: no such file, but {target} exists: are {names} swapped?")


def check_model_target(
    source: Path, target: Path, *, force: bool, dry_run: bool = False, names: str = "SOURCE and TARGET"
) -> None:
    """Check the name of a model file to write; print a warning if its suffix is that of another format.

    Parameters
    ----------
    source, target : Path
    force : bool
        Whether an existing model file is replaced.
    dry_run : bool
        Whether nothing is written.
    names : str
        What `source` and `target` are called on the command line.

    Raises
    ------
    StorageError
        If `target` exists and is not to be replaced, or is probably the source.
    """
    refuse_swapped(source, target, names)
    if _same_file(source, target):
        return  # the plan says so, with what else may be wrong
    foreign = target.suffix.lower() in _FOREIGN_SUFFIXES
    if _is_dangling(target) and not (force or dry_run):
        raise StorageError(f"{target} already exists, as a link to a file that does not; {_ADVICE}")
    if target.is_file() and not force:
        if foreign:
            raise StorageError(f"{target} already exists, and its name is that of a checkpoint: are {names} swapped?")
        if not dry_run:
            from rwkv_cy.storage import check_replaceable

            check_replaceable(target, "model")  # --force would not help
            _refuse(source, target, names, source.suffix == target.suffix)
    if foreign:
        print_warning(
            f"{target}: will be an HDF5 model file despite its name; .h5 is the usual suffix, export writes other "
            "formats"
        )


def check_export_target(source: Path, target: Path, *, force: bool, dry_run: bool) -> None:
    """Check the name of a file to write in another format; the options are those of :func:`check_model_target`.

    Raises
    ------
    StorageError
        If `target` exists and is not to be replaced, or is probably the source.
    """
    refuse_swapped(source, target)
    if _same_file(source, target) or not target.is_file():
        return
    if target.suffix.lower() in _OWN_SUFFIXES:
        raise StorageError(
            f"{target} already exists, and its name is that of a model file, which convert writes: are SOURCE and "
            "TARGET swapped?"
        )
    if not (force or dry_run):
        _refuse(source, target, "SOURCE and TARGET", True)


def _is_dangling(target: Path) -> bool:
    return target.is_symlink() and not target.exists()


def _same_file(source: Path, target: Path) -> bool:
    return source.exists() and target.exists() and source.samefile(target)


def _refuse(source: Path, target: Path, names: str, comparable: bool) -> NoReturn:
    """Say that the target exists; if `comparable`, a newer source may have been made from it."""
    if comparable and source.is_file() and source.stat().st_mtime > target.stat().st_mtime:
        raise StorageError(f"{target} already exists, and {source} is newer: are {names} swapped? If not, {_ADVICE}")
    raise StorageError(f"{target} already exists; {_ADVICE}")
