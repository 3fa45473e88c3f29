"""From a name on the hub to a path on this machine: from the cache, or downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rwkv_cy.errors import FormatError, HubError, StorageError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.files.vocabulary_files import is_tokenizer_name
from rwkv_cy.formats.shards import files_by_tensor
from rwkv_cy.hub.cache import Cache
from rwkv_cy.hub.library import is_offline, list_files
from rwkv_cy.hub.listing import Listing, RemoteFile, RemoteModel, choose
from rwkv_cy.hub.transfer import copy_file, download, free_space, matches, partial_size
from rwkv_cy.hub_names import HubName, is_hub_name
from rwkv_cy.records import dataclass, replace
from rwkv_cy.units import byte_size

__all__ = ["Fetched", "fetch_into", "fetch_to_cache", "find_in_cache", "local_path", "local_tokenizer"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """A model that is on this machine now.

    Attributes
    ----------
    path : Path
        The file or folder that a reader opens.
    paths : mapping of str to Path
        Every file by its name in the repository.
    downloaded : int
        Bytes that were downloaded for it.
    """

    path: Path
    paths: Mapping[str, Path]
    downloaded: int


def local_path(path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Return a path as it is; for a name such as ``hf:owner/name/file``, that of the file or folder on this machine.

    A model in the cache is used without asking the hub for a newer one; others are downloaded to the cache first.

    Parameters
    ----------
    path : path-like
    progress : callable, optional
        Called with the bytes done and the total, if something is downloaded.

    Raises
    ------
    HubError
        If the name is malformed, means no model or several, or the model cannot be downloaded.
    StorageError
        If the disk is full, or cannot be written.
    MissingDependencyError
        If huggingface_hub is not installed.
    """
    local = Path(path)
    if not is_hub_name(path) or os.path.lexists(local):
        return local
    name = HubName.parse(os.fspath(path))
    found = find_in_cache(name)
    if found is not None:
        return found
    try:
        listing = list_files(name)
    except HubError as error:
        found = find_in_cache(name, alone=True) if error.transient or is_offline() else None
        if found is None:
            raise
        return found
    return fetch_to_cache(name, listing, choose(name, listing.files), progress).path


def local_tokenizer(path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Return the local path of a tokenizer, as :func:`local_path` does for a model.

    A name on the hub without a file means the tokenizer files in the repository's top folder, without the weights.

    Raises
    ------
    HubError
        As :func:`local_path` does, and if the repository has no tokenizer there.
    """
    name = HubName.parse(os.fspath(path)) if is_hub_name(path) and not os.path.lexists(path) else None
    if name is None or name.file:
        return local_path(path, progress)
    cache = Cache(name.repository)
    commit = cache.commit(name.revision)
    if commit is not None and _tokenizers(cache.files(commit)):
        return cache.snapshot(commit)
    listing = list_files(name)
    files = _tokenizers(listing.files)
    if not files:
        raise HubError(f"{name}: expected a tokenizer in the repository's top folder, found none; name a file")
    return fetch_to_cache(name, listing, RemoteModel("", files, is_folder=True), progress).path


def _tokenizers(files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    return tuple(file for file in files if is_tokenizer_name(file.name))


def find_in_cache(name: HubName, *, alone: bool = False) -> Path | None:
    """Return the path of a model in the cache, or None.

    Parameters
    ----------
    name : HubName
        Without a file, it means the model in the repository's top folder; a file of several needs its name, because
        the cache does not know what else the repository has.
    alone : bool, default False
        Whether it may also mean the only model of the repository that is in the cache.
    """
    cache = Cache(name.repository)
    commit = cache.commit(name.revision)
    if commit is None:
        return None
    snapshot, files = cache.snapshot(commit), cache.files(commit)
    try:
        model = choose(name, files)
    except HubError:
        return None
    named = model.name == name.file and (not model.is_folder or _is_complete(snapshot, model))
    return snapshot / model.name if named or alone else None


def _is_complete(snapshot: Path, model: RemoteModel) -> bool:
    """Tell whether a folder has its settings, and every file that its index, if it has one, lists."""
    names = {file.basename for file in model.files}
    index = snapshot / model.files[0].name
    if index.suffix != ".json":
        return "config.json" in names
    try:
        return names.issuperset({"config.json", *files_by_tensor(index).values()})
    except (FormatError, StorageError):
        return False


def fetch_to_cache(name: HubName, listing: Listing, model: RemoteModel, progress: Progress | None = None) -> Fetched:
    """Download what the cache does not have of a model, and link it there.

    Parameters
    ----------
    name : HubName
    listing : Listing
        Of the revision.
    model : RemoteModel
    progress : callable, optional
        Called with the bytes done and the total.

    Raises
    ------
    HubError, StorageError
        As :func:`rwkv_cy.hub.transfer.download` does, and if there is too little disk space for all of it.
    """
    cache = Cache(name.repository)
    steps = [
        _Step(file, cache.partial(file), cache.blob(file))
        for file in {file.digest: file for file in model.files}.values()
        if not cache.has(file)
    ]
    _carry_out(replace(name, revision=listing.commit), steps, progress)
    paths = {file.name: cache.link(listing.commit, file) for file in model.files}
    cache.remember(name.revision, listing)
    return Fetched(cache.snapshot(listing.commit) / model.name, paths, sum(step.file.size for step in steps))


def fetch_into(
    name: HubName,
    listing: Listing,
    model: RemoteModel,
    path: Path,
    targets: Mapping[str, Path],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Fetched:
    """Put the files of a model at given paths: copied from the cache where it has them, downloaded otherwise.

    A target that has the right size and hash already is left as it is. What is copied is compared with its hash too.

    Parameters
    ----------
    name, listing, model, progress
        As for :func:`fetch_to_cache`.
    path : Path
        What a reader opens afterwards.
    targets : mapping of str to Path
        The path of each file by its name in the repository.
    overwrite : bool, default False
        Replace targets that are other files.

    Raises
    ------
    HubError, StorageError
        As :func:`fetch_to_cache` does, and if a target exists.
    """
    cache, steps = Cache(name.repository), []
    for file in model.files:
        target = targets[file.name]
        if matches(target, file):
            continue
        if target.is_dir():
            raise StorageError(f"{target}: expected the name of a file, got a folder; choose another place")
        if os.path.lexists(target) and not overwrite:
            raise StorageError(
                f"{target} already exists, and is not {file.name} of {name}; choose another place or pass --force "
                "(overwrite=True)"
            )
        partial = target.with_name(f".{target.name[:200]}.{file.digest[:8]}.incomplete")
        steps.append(_Step(file, partial, target, cache.blob(file) if cache.has(file) else None))
    _carry_out(replace(name, revision=listing.commit), steps, progress)
    return Fetched(
        path,
        {file.name: targets[file.name] for file in model.files},
        sum(step.file.size for step in steps if step.copied_from is None),
    )


@dataclass(frozen=True)
class _Step:
    """One file to download, or to copy: written as `partial`, then renamed to `target`."""

    file: RemoteFile
    partial: Path
    target: Path
    copied_from: Path | None = None


def _carry_out(name: HubName, steps: Sequence[_Step], progress: Progress | None) -> None:
    """Download or copy all files, after checking that the disk has space for them."""
    if not steps:
        return
    total = sum(step.file.size for step in steps)
    done = sum(partial_size(step.partial, step.file) for step in steps if step.copied_from is None)
    _check_space(name, steps[0].target.parent, total - done)

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        if progress is not None:
            progress(done, total)

    advance(0)
    for step in steps:
        with os_errors(step.target.parent, "create"):
            step.target.parent.mkdir(parents=True, exist_ok=True)
        if step.copied_from is None:
            download(name, step.file, step.partial, step.target, advance)
        else:
            copy_file(step.copied_from, step.file, step.partial, step.target, advance)


def _check_space(name: HubName, folder: Path, needed: int) -> None:
    free = free_space(folder)
    if needed > free:
        raise StorageError(
            f"{name}: not enough disk space: need {byte_size(needed)}, {byte_size(free)} free in {folder}; free some "
            "space, or choose another place (--into, or HF_HOME for the cache)"
        )
