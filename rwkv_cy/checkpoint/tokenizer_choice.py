"""Which tokenizer belongs to a checkpoint: the one it holds, one beside it, or the one that its vocabulary implies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import storage
from rwkv_cy.errors import MissingDependencyError, RWKVError, TokenizerError
from rwkv_cy.files.vocabulary_files import (
    WORLD_SIZE,
    WORLD_USED,
    is_world_name,
    last_id,
    packaged_vocabulary,
    tokenizer_files,
)
from rwkv_cy.formats.metadata import TOKENIZER_PATH
from rwkv_cy.hub_names import is_hub_name
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import ParameterSource

if TYPE_CHECKING:  # imported where a tokenizer is made, so that describing a file does not load it
    from rwkv_cy.storage import StoredTokenizer
    from rwkv_cy.text import Tokenizer

__all__ = [
    "Implied",
    "check_size",
    "choose_tokenizer",
    "describe_tokenizer",
    "fit_warning",
    "foreseen_tokenizer",
    "implied_tokenizer",
    "named_tokenizer",
    "stored_tokenizer",
]

_BYTES = 256
#: The vocabulary of plain bytes, where a file spells it out.
_EVERY_BYTE = [bytes([byte]) for byte in range(_BYTES)]
#: Where the tokenizer of a vocabulary of that size is published.
_HINTS = {50277: " (the Pile models use 20B_tokenizer.json, which is hf:EleutherAI/gpt-neox-20b/tokenizer.json)"}
#: Models have some rows more than their tokenizer has ids (50,304 for 50,277); with fewer ids than this part of the
#: rows, the tokenizer is another model's.
_LEAST_USED = 0.98


def choose_tokenizer(
    source: ParameterSource, vocab_size: int, wanted: str | None = None
) -> tuple[StoredTokenizer | None, tuple[str, ...]]:
    """Choose the tokenizer of an open checkpoint.

    Parameters
    ----------
    source : ParameterSource
        The checkpoint.
    vocab_size : int
        Rows of its embedding.
    wanted : str, optional
        ``"auto"`` (the default): the one that a model file holds; else what :func:`implied_tokenizer` finds.
        ``"none"``; or what :func:`named_tokenizer` takes: ``"bytes"``, ``"world"``, a path.

    Returns
    -------
    tokenizer : StoredTokenizer or None
    warnings : tuple of str
        Why ``"auto"`` found none, and which files it passed by; or why the requested one is probably another model's.

    Raises
    ------
    TokenizerError
        If the requested tokenizer is damaged, or has more ids than the model has rows.
    StorageError, MissingDependencyError
        If it cannot be read, or needs a package that is not installed.
    """
    where = str(source.path)
    if wanted == "none":
        return None, ()
    if wanted not in (None, "auto"):
        tokenizer = named_tokenizer(wanted)
        warning = fit_warning(tokenizer, vocab_size, where)
        return stored_tokenizer(tokenizer, vocab_size, where), () if warning is None else (warning,)
    if source.format == storage.MODEL_FORMAT and isinstance(source, storage.ModelFile):
        return source.header.tokenizer, ()
    found = implied_tokenizer(source, vocab_size)
    if found.tokenizer is not None:
        return stored_tokenizer(found.tokenizer, vocab_size, where), found.passed
    remedy = (
        f"{where}: no tokenizer is known for a vocabulary of {vocab_size} tokens{_HINTS.get(vocab_size, '')}; "
        "pass one with tokenizer= (--tokenizer FILE), or the file will have no tokenizer"
    )
    return None, (*found.passed, remedy)


@dataclass(frozen=True)
class Implied:
    """The tokenizer that a foreign checkpoint implies.

    Attributes
    ----------
    tokenizer : Tokenizer or None
    origin : str or Path
        ``"bytes"``, ``"world"`` or the file that it comes from; empty if there is none.
    passed : tuple of str
        What was passed by, with the reason, one sentence each.
    """

    tokenizer: Tokenizer | None
    origin: str | Path
    passed: tuple[str, ...]


def implied_tokenizer(checkpoint: ParameterSource, vocab_size: int) -> Implied:
    """Return the tokenizer that a foreign checkpoint implies.

    That of a GGUF file; plain bytes for a vocabulary of 256; else the first that fits of the files beside the
    checkpoint, or in its folder, that :func:`rwkv_cy.files.vocabulary_files.tokenizer_files` lists, where a World
    vocabulary beside a file is one only of models of its size; for these, at last the one of the ``rwkv`` package.

    Parameters
    ----------
    checkpoint : ParameterSource
        An open checkpoint, or one that was open.
    vocab_size : int
        Rows of its embedding.

    """
    passed: list[str] = []
    for candidate in _candidates(checkpoint, vocab_size):
        tokenizer, problem = _made(candidate, vocab_size)
        if problem is None:
            return Implied(tokenizer, candidate, tuple(passed))
        passed.append(_passed_by(candidate, problem))
    return Implied(None, "", tuple(passed))


def foreseen_tokenizer(checkpoint: ParameterSource, vocab_size: int) -> tuple[str | None, tuple[str, ...]]:
    """Describe the tokenizer that :func:`implied_tokenizer` would return, and what was passed by.

    A vocabulary in the checkpoint itself, and one of World in its text format, are not decoded: the last line tells how
    many ids the latter has.
    """
    passed: list[str] = []
    for candidate in _candidates(checkpoint, vocab_size):
        in_file = candidate == checkpoint.path and not checkpoint.path.is_dir()
        if in_file and vocab_size != _BYTES:
            return "world (in the file)", tuple(passed)
        if candidate == "bytes":
            return "bytes (not in the file)", tuple(passed)
        try:
            ids = None if in_file else _declared_ids(candidate)
        except MissingDependencyError as error:
            passed.append(_passed_by(candidate, str(error)))
            continue
        if ids is None:
            tokenizer, problem = _made(candidate, vocab_size)
            kind = "" if tokenizer is None else tokenizer.kind
        else:
            kind = "world"
            problem = _too_many(kind, ids, vocab_size) or _too_few(kind, ids, vocab_size)
        if problem is None:
            place = "in" if in_file else "beside" if isinstance(candidate, Path) else "not in"
            name = candidate.name if place == "beside" and isinstance(candidate, Path) else kind
            return f"{name} ({place} the file)", tuple(passed)
        passed.append(_passed_by(candidate, problem))
    return None, tuple(passed)


def _made(candidate: str | Path, vocab_size: int) -> tuple[Tokenizer | None, str | None]:
    """Return a tokenizer, or why it is not one of a model of so many tokens."""
    try:
        tokenizer = named_tokenizer(candidate)
    except RWKVError as error:
        return None, str(error)
    size = tokenizer.vocab_size
    return tokenizer, _too_many(tokenizer.kind, size, vocab_size) or _too_few(tokenizer.kind, size, vocab_size)


def _declared_ids(candidate: str | Path) -> int | None:
    """Return how many ids a World vocabulary has by its last line; None if that does not tell."""
    path = packaged_vocabulary() if candidate == "world" else Path(candidate)
    last = last_id(path) if is_world_name(path) else None
    return None if last is None else WORLD_SIZE if last >= WORLD_USED else last + 1


def _passed_by(candidate: str | Path, problem: str) -> str:
    if not isinstance(candidate, Path):
        return problem
    where = "" if problem.startswith(str(candidate)) else f"{candidate}: "
    return f"{where}{problem}; passed by"


def _candidates(checkpoint: ParameterSource, vocab_size: int) -> Iterator[str | Path]:
    own = checkpoint.metadata.get(TOKENIZER_PATH)
    if own is not None and Path(own) == checkpoint.path:
        yield checkpoint.path
    if vocab_size == _BYTES:
        yield "bytes"
        return
    # Models of the World vocabulary have as many rows as it has ids in use, or a few more.
    world = WORLD_USED <= vocab_size <= WORLD_SIZE
    if checkpoint.path.is_dir():
        yield from tokenizer_files(checkpoint.path)
    else:
        yield from (path for path in tokenizer_files(checkpoint.path.parent) if world or not is_world_name(path))
    if world:
        yield "world"


def named_tokenizer(name: str | os.PathLike[str]) -> Tokenizer:
    """Return the tokenizer that a user names.

    Parameters
    ----------
    name : str or path-like
        What :func:`rwkv_cy.text.find_tokenizer` takes: ``"bytes"``, ``"world"``, a file or a folder; or a model file
        or GGUF file, whose tokenizer it is; or a name on the hub (``hf:owner/name``,
        ``hf:owner/name/tokenizer.json``).

    Raises
    ------
    TokenizerError
        If it is damaged, or the model file has none.
    FormatError, UnsupportedError
        If a GGUF file is damaged, or has none of RWKV.
    StorageError, MissingDependencyError
        If it cannot be read, or needs a package that is not installed.
    """
    from rwkv_cy.text import ByteTokenizer, WorldTokenizer, find_tokenizer, load_tokenizer

    path = _local(name)
    text = os.fspath(name) if path == Path(name) else str(path)
    if text in ("bytes", "world") or not _is_file(path):
        return find_tokenizer(text)
    from rwkv_cy.formats.gguf.vocabulary import is_gguf, read_vocabulary

    if is_gguf(path):
        vocabulary = read_vocabulary(path)
        return ByteTokenizer() if vocabulary == _EVERY_BYTE else WorldTokenizer(vocabulary, text)
    if not storage.is_model_file(path):
        return find_tokenizer(text)
    with storage.open_model(path) as model:
        stored = model.header.tokenizer
    if stored is None:
        raise TokenizerError(f"{text}: expected a model file with a tokenizer, got one without; name another")
    return load_tokenizer(stored.kind, stored.data, text)


def _local(name: str | os.PathLike[str]) -> Path:
    """Return the path of a tokenizer on this machine, after downloading one that is named on the hub."""
    if not is_hub_name(name):
        return Path(name)
    from rwkv_cy.hub import local_tokenizer

    return local_tokenizer(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False  # find_tokenizer says why


def stored_tokenizer(tokenizer: Tokenizer, vocab_size: int, where: str) -> StoredTokenizer:
    """Return what a model file keeps of `tokenizer`; TokenizerError if it has more ids than the model has rows."""
    check_size(tokenizer, vocab_size, where)
    return storage.StoredTokenizer(tokenizer.kind, tokenizer.to_bytes())


def check_size(tokenizer: Tokenizer, vocab_size: int, where: str) -> None:
    """Raise TokenizerError if a tokenizer has more ids than the model has rows."""
    problem = _too_many(tokenizer.kind, tokenizer.vocab_size, vocab_size)
    if problem is not None:
        raise TokenizerError(f"{where}: {problem}; pass the model's own")


def fit_warning(tokenizer: Tokenizer, vocab_size: int, where: str) -> str | None:
    """Return a warning where a tokenizer has so few ids that it is probably another model's, or None."""
    problem = _too_few(tokenizer.kind, tokenizer.vocab_size, vocab_size)
    return None if problem is None else f"{where}: {problem}; its text will make no sense"


def _too_many(kind: str, ids: int, vocab_size: int) -> str | None:
    world = kind == "world" and ids == WORLD_SIZE and vocab_size >= WORLD_USED
    if ids <= vocab_size or world:
        return None
    return f"expected a tokenizer of at most {vocab_size} tokens, as the model has, got {kind} with {ids}"


def _too_few(kind: str, ids: int, vocab_size: int) -> str | None:
    if ids >= _LEAST_USED * vocab_size:
        return None
    return (
        f"expected a tokenizer of about {vocab_size} tokens, as the model has, got {kind} with "
        f"{ids}: probably another model's"
    )


def describe_tokenizer(tokenizer: StoredTokenizer | None) -> str:
    """Return a tokenizer in words: its kind, and the size of its vocabulary file where there is one."""
    if tokenizer is None:
        return "none"
    return f"{tokenizer.kind} ({len(tokenizer.data):,} bytes)" if tokenizer.data else tokenizer.kind
