"""Files of a repository, and the models among them: one file, the parts of one, or a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from rwkv_cy.errors import HubError
from rwkv_cy.files.vocabulary_files import is_tokenizer_name
from rwkv_cy.formats.huggingface import BESIDE, WEIGHTS
from rwkv_cy.hub_names import HubName, is_plain_path
from rwkv_cy.records import dataclass
from rwkv_cy.units import byte_size

__all__ = ["Listing", "RemoteFile", "RemoteModel", "choose", "choose_all", "models_of"]

_SUFFIXES = (".pth", ".pt", ".safetensors", ".st", ".gguf", ".bin", ".h5")
#: A part of a GGUF file that llama.cpp has split.
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-\d{5}\.gguf")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Far above the files of a model; repositories of data sets have more.
_MAX_FILES = 100_000
_MAX_SIZE = 1 << 50
#: A message lists so many files, and counts the others.
_LISTED = 3


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes
    ----------
    name : str
        Its path in the repository.
    size : int
        Bytes.
    digest : str
        SHA-256 in hexadecimal; or, for a file that is stored in git itself, the SHA-1 of its git object.
    """

    name: str
    size: int
    digest: str

    @property
    def folder(self) -> str:
        """The path of its folder; empty at the top."""
        return self.name.rpartition("/")[0]

    @property
    def basename(self) -> str:
        """Its name without the folder."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit.

    Attributes
    ----------
    commit : str
    files : tuple of RemoteFile
        Files whose names are safe paths.
    unsafe : int
        How many others there are.
    """

    commit: str
    files: tuple[RemoteFile, ...]
    unsafe: int = 0

    @classmethod
    def checked(cls, where: str, commit: object, files: Sequence[RemoteFile]) -> Listing:
        """Return a list that came from a server, after checking it.

        Raises
        ------
        HubError
            If commit, sizes or digests are missing or malformed, or there are too many files.
        """
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise HubError(f"{where}: expected a commit of 40 hexadecimal digits, got {str(commit)[:80]!r}; {_SERVER}")
        if len(files) > _MAX_FILES:
            raise HubError(
                f"{where}: expected at most {_MAX_FILES:,} files, got {len(files):,}; name another repository"
            )
        safe = [file for file in files if isinstance(file.name, str) and is_plain_path(file.name)]
        for file in safe:
            if not isinstance(file.size, int) or isinstance(file.size, bool) or not 0 <= file.size <= _MAX_SIZE:
                raise HubError(f"{where}: {file.name}: expected its size, got {str(file.size)[:40]!r}; {_SERVER}")
            if not isinstance(file.digest, str) or not _DIGEST.fullmatch(file.digest):
                raise HubError(f"{where}: {file.name}: expected its hash, got {str(file.digest)[:80]!r}; {_SERVER}")
        return cls(commit, tuple(safe), len(files) - len(safe))


_SERVER = "the server is not a Hugging Face hub: check HF_ENDPOINT"


@dataclass(frozen=True)
class RemoteModel:
    """A model in a repository, with the files that belong to it.

    Attributes
    ----------
    name : str
        What a reader opens: the path of a file, or of a folder (empty at the top).
    files : tuple of RemoteFile
        The weights first, then settings and tokenizers.
    is_folder : bool
    """

    name: str
    files: tuple[RemoteFile, ...]
    is_folder: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def label(self) -> str:
        """The name for messages; a folder ends with a slash."""
        return f"{self.name or '.'}/" if self.is_folder else self.name

    def matches(self, pattern: str) -> bool:
        """Tell whether its name matches a pattern, in upper or lower case."""
        return _matches(self.label, pattern) or _matches(self.name, pattern)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name.lower(), pattern.lower())


def models_of(files: Sequence[RemoteFile]) -> tuple[RemoteModel, ...]:
    """Return the models among the files of a repository, ordered by name."""
    folders: dict[str, list[RemoteFile]] = {}
    for file in files:
        folders.setdefault(file.folder, []).append(file)
    models = [model for folder, group in folders.items() for model in _models_in(folder, group)]
    return tuple(sorted(models, key=lambda model: model.name))


def _models_in(folder: str, files: Sequence[RemoteFile]) -> Iterator[RemoteModel]:
    tokenizers = _tokenizers(folder, files)
    whole = _folder_model(folder, files, tokenizers)
    taken = set() if whole is None else {file.name for file in whole.files}
    if whole is not None:
        yield whole
    parts: dict[str, list[RemoteFile]] = {}
    for file in files:
        if file.name not in taken and file.basename.lower().endswith(_SUFFIXES):
            split = _PART.fullmatch(file.name)
            parts.setdefault(split["stem"] if split else file.name, []).append(file)
    for group in parts.values():
        group.sort(key=lambda file: file.name)
        yield RemoteModel(group[0].name, (*group, *tokenizers))


def _folder_model(folder: str, files: Sequence[RemoteFile], tokenizers: Sequence[RemoteFile]) -> RemoteModel | None:
    """Return the model that a reader of Hugging Face folders finds among the files of one folder."""
    by_name = {file.basename: file for file in files}
    weights = next((name for name in WEIGHTS if name in by_name), None)
    if weights is None:
        return None
    chosen = [by_name[weights]]
    if weights.endswith(".json"):
        suffix = PurePosixPath(weights.removesuffix(".index.json")).suffix
        chosen += [file for file in files if file.basename.endswith(suffix)]
    settings = [by_name[name] for name in BESIDE if name in by_name]
    return RemoteModel(folder, tuple(dict.fromkeys((*chosen, *settings, *tokenizers))), is_folder=True)


def choose(name: HubName, files: Sequence[RemoteFile], patterns: Sequence[str] = ()) -> RemoteModel:
    """Return the one model that a name and patterns mean.

    Parameters
    ----------
    name : HubName
        Its file is a path, or a pattern.
    files : sequence of RemoteFile
        All files of the repository.
    patterns : sequence of str
        Further patterns, one of which has to match.

    Raises
    ------
    HubError
        If there is no such model, or more than one; the error has the names and sizes to choose from.
    """
    found = choose_all(name, files, patterns)
    if len(found) == 1:
        return found[0]
    top = [model for model in found if model.is_folder and not model.name]
    if top and not (name.file or patterns):
        return top[0]
    raise HubError(
        f"{name}: expected one model, {_what(name, patterns)} {len(found)}: {_listed(found)}; "
        f"name one, as hf:{name.repository}/{found[0].name}; rwkv-cy pull hf:{name.repository} --list shows them",
        [(model.label, model.size) for model in found],
    )


def choose_all(name: HubName, files: Sequence[RemoteFile], patterns: Sequence[str] = ()) -> tuple[RemoteModel, ...]:
    """Return all models that a name and patterns mean, or other files where no model matches.

    Raises
    ------
    HubError
        If nothing matches.
    """
    models = models_of(files)
    wanted = (*((name.file,) if name.file else ()), *patterns)
    found = tuple(_wanted(wanted, models, files)) if wanted else models
    if found:
        return found
    known = models or tuple(RemoteModel(file.name, (file,)) for file in files)
    near = get_close_matches(name.file, [model.name for model in known], 1, 0.6) if name.file else []
    hint = f"did you mean hf:{name.repository}/{near[0]}? " if near else ""
    raise HubError(
        f"{name}: expected a model, {_what(name, patterns)} none; {hint}"
        f"the repository has {_listed(known) or 'no files'}",
        [(model.label, model.size) for model in known],
    )


def _wanted(wanted: Iterable[str], models: Sequence[RemoteModel], files: Sequence[RemoteFile]) -> Iterator[RemoteModel]:
    """Yield each model once that one of the texts names or matches."""
    texts = tuple(wanted)
    exact = [_exact(text, models, files) for text in texts]
    if all(exact):
        yield from dict.fromkeys(model for model in exact if model is not None)
        return
    matching = [model for model in models if any(model.matches(text) for text in texts)]
    if matching:
        yield from matching
        return
    yield from (RemoteModel(file.name, (file,)) for file in files if any(_matches(file.name, text) for text in texts))


def _exact(text: str, models: Sequence[RemoteModel], files: Sequence[RemoteFile]) -> RemoteModel | None:
    """Return the model of exactly this name, or a file of a folder's model alone, with the tokenizers beside it."""
    for model in models:
        if text == model.name or (not model.is_folder and any(file.name == text for file in model.files[:1])):
            return model
    file = next((file for file in files if file.name == text), None)
    if file is None:
        return None
    if file.basename in WEIGHTS and file.basename.endswith(".json"):
        whole = next(model for model in models if model.is_folder and model.name == file.folder)
        return RemoteModel(file.name, whole.files)
    beside = _tokenizers(file.folder, files) if file.basename.lower().endswith(_SUFFIXES) else ()
    return RemoteModel(file.name, (file, *beside))


def _tokenizers(folder: str, files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    return tuple(file for file in files if file.folder == folder and is_tokenizer_name(file.basename))


def _what(name: HubName, patterns: Sequence[str]) -> str:
    texts = (*((name.file,) if name.file else ()), *patterns)
    return f"{' and '.join(map(repr, texts))} matches" if texts else "found"


def _listed(models: Sequence[RemoteModel]) -> str:
    shown = ", ".join(f"{model.label} ({byte_size(model.size)})" for model in models[:_LISTED])
    return shown + (f" and {len(models) - _LISTED} more" if len(models) > _LISTED else "")
