"""Finds the tokenizer that a user or a model file names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rwkv_cy.errors import StorageError, TokenizerError
from rwkv_cy.text.tokenizers.base import Tokenizer
from rwkv_cy.text.tokenizers.huggingface import MAX_JSON_BYTES, HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.plain_bytes import ByteTokenizer
from rwkv_cy.text.tokenizers.vocabulary import is_packed
from rwkv_cy.text.tokenizers.world import WorldTokenizer, packaged_vocabulary

__all__ = ["find_tokenizer", "load_tokenizer"]


def load_tokenizer(kind: str, data: bytes, name: str = "tokenizer") -> Tokenizer:
    """Restore a tokenizer from its `kind` and the result of its `to_bytes`.

    Raises
    ------
    TokenizerError
        If the kind is unknown or the data is damaged.
    MissingDependencyError
        If the kind needs a library that is not installed.
    """
    if kind == "bytes":
        if data:
            raise TokenizerError(f"{name}: expected no data for the bytes tokenizer, got {len(data)} bytes")
        return ByteTokenizer()
    if kind == "world":
        return WorldTokenizer.from_bytes(data, name)
    if kind == "huggingface":
        return HuggingFaceTokenizer(data, name)
    raise TokenizerError(f'{name}: expected the kind "bytes", "world" or "huggingface", got {kind!r}')


def find_tokenizer(spec: str | Path) -> Tokenizer:
    """Find the tokenizer that a user names.

    Parameters
    ----------
    spec : str or Path
        ``"bytes"``; ``"world"``, whose vocabulary then comes from the ``rwkv`` package; or the path of a World
        vocabulary or of a ``tokenizer.json``, told apart by their contents. A file named ``bytes`` is ``./bytes``.

    Raises
    ------
    TokenizerError
        If the file is neither of them.
    StorageError
        If the file cannot be read.
    MissingDependencyError
        If ``"world"`` is requested and the ``rwkv`` package is not installed, or the ``tokenizers`` library is
        needed and not installed.
    """
    if spec == "bytes":
        return ByteTokenizer()
    path = packaged_vocabulary() if spec == "world" else Path(spec)
    data = _read_file(path)
    name = str(path)
    if is_packed(data):
        return WorldTokenizer.from_bytes(data, name)
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return HuggingFaceTokenizer(data.removeprefix(b"\xef\xbb\xbf"), name)
    return WorldTokenizer.from_text(data, name)


def _read_file(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = file.read(MAX_JSON_BYTES + 1) if regular else b""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError(
            f'{path}: cannot be read ({reason}); expected "bytes", "world" or the path of a vocabulary'
        ) from None
    if not regular:
        raise StorageError(f"{path}: expected a regular file; name a vocabulary file")
    if len(data) > MAX_JSON_BYTES:
        raise TokenizerError(f"{path}: expected a vocabulary of at most {MAX_JSON_BYTES} bytes, got a larger file")
    return data
