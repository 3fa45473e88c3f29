"""Which tokenizer belongs to a checkpoint: the one it holds, one beside it, or the one that its vocabulary implies."""

from __future__ import annotations

from pathlib import Path

from rwkv_cy.errors import RWKVError, TokenizerError
from rwkv_cy.storage import ModelFile, StoredTokenizer
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.text import Tokenizer, find_tokenizer

__all__ = ["choose_tokenizer", "describe_tokenizer", "guess_tokenizer", "stored_tokenizer"]

_BYTES = 256
#: Where the tokenizer of a vocabulary of that size is published.
_HINTS = {50277: " (the Pile models use 20B_tokenizer.json, the tokenizer.json of EleutherAI/gpt-neox-20b)"}
#: Ids of the World vocabulary that are in use; models of it have this many rows or a few more, 65,536 at most.
_WORLD_USED = 65_529
_WORLD_ALL = 65_536
#: Looked for beside a checkpoint, in this order: Hugging Face's name, then those of the authors' repositories.
_HUGGINGFACE_NAMES = ("tokenizer.json", "20B_tokenizer.json")
_WORLD_NAMES = ("rwkv_vocab_v20230424.txt",)


def choose_tokenizer(
    source: ParameterSource, vocab_size: int, wanted: str | None = None
) -> tuple[StoredTokenizer | None, tuple[str, ...]]:
    """Choose the tokenizer of an open checkpoint.

    Parameters
    ----------
    source : ParameterSource
        The checkpoint.
    vocab_size : int
        Tokens of its vocabulary.
    wanted : str, optional
        ``"auto"`` (the default): the one that a model file holds; else plain bytes for a vocabulary of 256; the World
        vocabulary for one of its size, from ``rwkv_vocab_v20230424.txt`` beside the checkpoint or from the ``rwkv``
        package; else ``tokenizer.json`` (or ``20B_tokenizer.json``) beside the checkpoint or in its folder.
        ``"none"``; or what :func:`rwkv_cy.text.find_tokenizer` takes: ``"bytes"``, ``"world"``, a path.

    Returns
    -------
    tokenizer : StoredTokenizer or None
    warnings : tuple of str
        Why ``"auto"`` found none, if so.

    Raises
    ------
    TokenizerError
        If the requested tokenizer is damaged, or has more tokens than the model.
    StorageError, MissingDependencyError
        If it cannot be read, or needs a package that is not installed.
    """
    if wanted == "none":
        return None, ()
    if wanted not in (None, "auto"):
        return stored_tokenizer(find_tokenizer(wanted), vocab_size, str(source.path)), ()
    if isinstance(source, ModelFile):
        return source.header.tokenizer, ()
    try:
        found = guess_tokenizer(source.path, vocab_size)
        if found is not None:
            return stored_tokenizer(find_tokenizer(found), vocab_size, str(source.path)), ()
    except RWKVError as error:
        return None, (f"no tokenizer is known for this model: {error}",)
    warning = (
        f"{source.path}: no tokenizer is known for a vocabulary of {vocab_size} tokens{_HINTS.get(vocab_size, '')}; "
        "pass one with tokenizer= (--tokenizer FILE), or the file will have no tokenizer"
    )
    return None, (warning,)


def guess_tokenizer(checkpoint: Path, vocab_size: int) -> str | Path | None:
    """Return the argument of :func:`rwkv_cy.text.find_tokenizer` for a foreign checkpoint.

    It depends on the size of the vocabulary, and on files beside the checkpoint or in its folder, which are not opened.
    """
    if vocab_size == _BYTES:
        return "bytes"
    world = _WORLD_USED <= vocab_size <= _WORLD_ALL
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for name in _WORLD_NAMES if world else _HUGGINGFACE_NAMES:
        if (folder / name).is_file():
            return folder / name
    return "world" if world else None


def stored_tokenizer(tokenizer: Tokenizer, vocab_size: int, where: str) -> StoredTokenizer:
    """Return what a model file keeps of `tokenizer`; TokenizerError if it has more tokens than the model."""
    world = tokenizer.kind == "world" and vocab_size >= _WORLD_USED
    if tokenizer.vocab_size > vocab_size and not world:
        raise TokenizerError(
            f"{where}: expected a tokenizer of at most {vocab_size} tokens, as the model has, got {tokenizer.kind} "
            f"with {tokenizer.vocab_size}; pass the model's own"
        )
    return StoredTokenizer(tokenizer.kind, tokenizer.to_bytes())


def describe_tokenizer(tokenizer: StoredTokenizer | None) -> str:
    """Return a tokenizer in words: its kind, and the size of its vocabulary file where there is one."""
    if tokenizer is None:
        return "none"
    return f"{tokenizer.kind} ({len(tokenizer.data):,} bytes)" if tokenizer.data else tokenizer.kind
