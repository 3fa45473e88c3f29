"""Pulling a model from the hub: what a name and patterns mean, where it goes, and what was taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rwkv_cy.errors import ConfigError, HubError
from rwkv_cy.hub import (
    Fetched,
    Listing,
    RemoteModel,
    choose,
    choose_all,
    endpoint,
    fetch_into,
    fetch_to_cache,
    list_files,
)
from rwkv_cy.hub_names import MAIN, HubName, complete_url, is_hub_name, name_in_url
from rwkv_cy.records import asdict, dataclass, replace
from rwkv_cy.toolkit.known_models import find_known_model
from rwkv_cy.toolkit.schema_names import named

__all__ = ["PullReport", "PulledFile", "RepositoryReport", "hub_name_of", "list_repository", "pull"]

#: What is read from a file, by its suffix.
_KINDS = {
    ".pth": "PyTorch checkpoint, read without running code from it",
    ".pt": "PyTorch checkpoint, read without running code from it",
    ".bin": "PyTorch checkpoint or rwkv.cpp file, read without running code from it",
    ".safetensors": "safetensors",
    ".st": "safetensors of web-rwkv",
    ".gguf": "GGUF",
    ".h5": "model file",
}


@dataclass(frozen=True)
class PulledFile:
    """One file that was pulled.

    Attributes
    ----------
    name : str
        Its path in the repository.
    size : int
        Bytes.
    digest : str
        Its hash on the hub: SHA-256, or for small files the SHA-1 of the git object.
    path : Path
        Where it is on this machine.
    """

    name: str
    size: int
    digest: str
    path: Path


@dataclass(frozen=True)
class PullReport:
    """What was pulled.

    Attributes
    ----------
    name : HubName
        The model, with the revision that was requested.
    commit : str
        The commit of that revision.
    endpoint : str
        The address of the hub.
    path : Path
        What to load: a file or a folder.
    kind : str
        What is read from it.
    files : tuple of PulledFile
    downloaded : int
        Bytes of the files that were downloaded; the others were on this machine already.
    """

    name: HubName
    commit: str
    endpoint: str
    path: Path
    kind: str
    files: tuple[PulledFile, ...]
    downloaded: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def pinned(self) -> HubName:
        """The name with the commit as revision, which always means the same files."""
        return replace(self.name, revision=self.commit)

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, for JSON."""
        fields = {
            **asdict(self),
            "name": str(self.name),
            "pinned": str(self.pinned),
            "repository": self.name.repository,
            "revision": self.name.revision,
            "path": str(self.path),
            "files": [{**asdict(file), "path": str(file.path)} for file in self.files],
            "size": self.size,
        }
        return named("pull", fields)


@dataclass(frozen=True)
class RepositoryReport:
    """The models in a repository.

    Attributes
    ----------
    name : HubName
    commit : str
    models : tuple of RemoteModel
        Those that the name and the patterns mean.
    unsafe : int
        Files that are left out because their names are not safe paths.
    """

    name: HubName
    commit: str
    models: tuple[RemoteModel, ...]
    unsafe: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, for JSON."""
        models = [
            {"name": str(_of(self.name, model)), "size": model.size, "files": [asdict(file) for file in model.files]}
            for model in self.models
        ]
        return named("pull-list", {**asdict(self), "name": str(self.name), "models": models})


def hub_name_of(source: str, revision: str | None = None) -> HubName:
    """Return what a user means: ``hf:owner/name``, a URL of the hub, ``owner/name``, or the short name of a model.

    Raises
    ------
    HubError
        If it is none of them.
    ConfigError
        If there are two different revisions.
    """
    url = name_in_url(complete_url(source) or source)
    if url is not None:
        name = url
    elif is_hub_name(source):
        name = HubName.parse(source)
    elif complete_url(source) is not None:
        raise HubError(
            f"{complete_url(source)}: expected a URL of the Hugging Face hub, got another; download the file"
        )
    elif "/" in source:
        name = HubName.parse(f"hf:{source}")
    else:
        name = find_known_model(source).hub_name
    if revision is None or revision == name.revision:
        return name
    if name.revision != MAIN:
        raise ConfigError(f"{name}: expected one revision, got {revision!r} too; leave one out")
    return replace(name, revision=HubName.parse(f"hf:{name.repository}@{revision}").revision)


def list_repository(source: str, files: str | Sequence[str] = (), *, revision: str | None = None) -> RepositoryReport:
    """List the models in a repository, or those that match patterns, with their sizes.

    Parameters
    ----------
    source, files, revision
        As for :func:`pull`.

    Raises
    ------
    HubError
        If nothing matches, or the hub cannot be reached.
    MissingDependencyError
        If huggingface_hub is not installed.
    """
    name = hub_name_of(source, revision)
    listing = list_files(name)
    return RepositoryReport(name, listing.commit, choose_all(name, listing.files, _patterns(files)), listing.unsafe)


def pull(
    source: str,
    files: str | Sequence[str] = (),
    *,
    revision: str | None = None,
    into: str | os.PathLike[str] | None = None,
    to: str | os.PathLike[str] | None = None,
    every: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PullReport:
    """Download a model from the Hugging Face hub, or take it from the hub's cache if nothing has changed.

    What is downloaded or copied is compared with its hash; what stays in the cache is taken by its size. A download
    that was interrupted continues where it ended. Tokens, the cache, a mirror and offline mode are those of
    huggingface_hub: ``HF_TOKEN`` or ``hf auth login``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``.

    Parameters
    ----------
    source : str
        ``"hf:owner/name"``, ``"hf:owner/name/file"`` or ``"hf:owner/name/file@revision"``; a URL of the hub; or a
        short name of :func:`known_models`, as ``"rwkv7-g1-0.1b"``.
    files : str or sequence of str, optional
        Patterns such as ``"*0.1b*"``, of which one has to match.
    revision : str, optional
        A branch, tag or commit; ``"main"`` by default.
    into : path-like, optional
        A folder to put the files in, under their own names, instead of the hub's cache. It is made if it is missing.
    to : path-like, optional
        The path of the file to write; for a model that is a folder, of the folder.
    every : bool, default False
        Take all models that match, instead of refusing more than one; only into the cache, or with `into`.
    overwrite : bool, default False
        Replace other files at `into` or `to`.
    progress : callable, optional
        Called with the bytes done and the total.

    Returns
    -------
    PullReport

    Raises
    ------
    HubError
        If the name is malformed, nothing or more than one model matches, access is refused, the hub cannot be reached,
        or what arrived has another hash.
    StorageError
        If the disk has too little space, cannot be written, or a target exists.
    ConfigError
        If `into` and `to` are both given, or `to` for several models.
    MissingDependencyError
        If huggingface_hub is not installed.
    """
    if into is not None and to is not None:
        raise ConfigError("to: expected either a path to write (to) or a folder (into), got both; leave one out")
    if to is not None and every:
        raise ConfigError("to: expected one model to write there, got every that matches; name a folder with into")
    name = hub_name_of(source, revision)
    listing = list_files(name)
    if every:
        model = _together(choose_all(name, listing.files, _patterns(files)))
    else:
        model = choose(name, listing.files, _patterns(files))
    if to is not None and not model.is_folder:
        model = _alone(model)
    name = _of(name, model)
    if into is None and to is None:
        fetched = fetch_to_cache(name, listing, model, progress)
    else:
        path, targets = _targets(model, into, to)
        fetched = fetch_into(name, listing, model, path, targets, overwrite=overwrite, progress=progress)
    return _report(name, listing, model, fetched)


def _patterns(files: str | Sequence[str]) -> tuple[str, ...]:
    return (files,) if isinstance(files, str) else tuple(files)


def _of(name: HubName, model: RemoteModel) -> HubName:
    return replace(name, file=model.name)


def _together(models: Sequence[RemoteModel]) -> RemoteModel:
    """Return several models as one folder: the one that all of their files are in."""
    if len(models) == 1:
        return models[0]
    files = tuple(dict.fromkeys(file for model in models for file in model.files))
    return RemoteModel(os.path.commonpath([file.folder for file in files]), files, is_folder=True)


def _alone(model: RemoteModel) -> RemoteModel:
    """Return a model in one file without what is beside it."""
    parts = [file.name for file in model.files if file.name.endswith(".gguf")]
    if len(parts) > 1:
        raise ConfigError(f"to: expected a model in one file, got {len(parts)} parts; name a folder with into")
    return replace(model, files=model.files[:1])


def _targets(
    model: RemoteModel, into: str | os.PathLike[str] | None, to: str | os.PathLike[str] | None
) -> tuple[Path, dict[str, Path]]:
    """Return the path of a model, and where each of its files goes."""
    if to is not None and not model.is_folder:
        return Path(to), {model.files[0].name: Path(to)}
    folder = Path(to if into is None else into)  # type: ignore[arg-type]
    base = model.name if model.is_folder else model.files[0].folder
    targets = {file.name: folder / file.name.removeprefix(f"{base}/") for file in model.files}
    return folder if model.is_folder else targets[model.files[0].name], targets


def _report(name: HubName, listing: Listing, model: RemoteModel, fetched: Fetched) -> PullReport:
    files = tuple(PulledFile(file.name, file.size, file.digest, fetched.paths[file.name]) for file in model.files)
    kind = "a folder" if model.is_folder else _KINDS.get(Path(model.name).suffix.lower(), "a file")
    return PullReport(name, listing.commit, endpoint(), fetched.path, kind, files, fetched.downloaded)
