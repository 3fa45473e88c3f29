"""Finds the tokenizer that a user or a model file names."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path

from rwkv_cy.errors import StorageError, TokenizerError
from rwkv_cy.files.similar import similar_path
from rwkv_cy.files.vocabulary_files import FILE_NAMES, VOCABULARY_FILE, packaged_vocabulary, tokenizer_files
from rwkv_cy.hub_names import complete_url
from rwkv_cy.text.tokenizers.base import Tokenizer
from rwkv_cy.text.tokenizers.byte_level import greedy_vocabulary
from rwkv_cy.text.tokenizers.huggingface import MAX_JSON_BYTES, HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.plain_bytes import ByteTokenizer
from rwkv_cy.text.tokenizers.vocabulary import is_packed, parse_text
from rwkv_cy.text.tokenizers.vocabulary_json import parse_json
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from rwkv_cy.units import byte_size

__all__ = ["find_tokenizer", "load_tokenizer"]

#: What is looked at to tell a text from a binary file.
_HEAD_BYTES = 4096
_VOCABULARY = f"a tokenizer.json or a vocabulary such as {VOCABULARY_FILE}"
_SIMILARITY = 0.75
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: A tokenizer.json has its model in an object of that name; in a vocabulary, the name could only have an id.
_MODEL = re.compile(rb'"model"\s*:\s*\{')


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
        ``"bytes"``; ``"world"``, whose vocabulary then comes from the ``rwkv`` package; the path of a vocabulary or of
        a ``tokenizer.json``, told apart by their contents; or a folder with one in it, under a usual name (see
        :func:`rwkv_cy.files.vocabulary_files.tokenizer_files`). A file named ``bytes`` is ``./bytes``.

    Raises
    ------
    TokenizerError
        If the file is neither of them, the folder has none, or `spec` is empty.
    StorageError
        If the file cannot be read.
    MissingDependencyError
        If ``"world"`` is requested and the ``rwkv`` package is not installed, or the ``tokenizers`` library is
        needed and not installed.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if spec == "":
        raise TokenizerError('tokenizer: expected "bytes", "world" or the path of a vocabulary, got an empty text')
    path = packaged_vocabulary() if spec == "world" else Path(spec)
    if _is_folder(path):
        files = tokenizer_files(path)
        if not files:
            raise TokenizerError(
                f"{path}: expected a folder with {VOCABULARY_FILE}, {', '.join(FILE_NAMES[:-1])} or {FILE_NAMES[-1]}, "
                "found none of them; name the file of the vocabulary"
            )
        path = files[0]
    name = str(path)
    data = _as_utf8(_read_file(path), name)
    if is_packed(data):
        return WorldTokenizer.from_bytes(data, name)
    if b"\0" in data[:_HEAD_BYTES]:
        raise TokenizerError(f"{name}: expected {_VOCABULARY}, got a binary file; name a vocabulary")
    text = data.strip()
    if text[:1] != b"{" and (text[:1], text[-1:]) != (b"[", b"]"):
        return WorldTokenizer(parse_text(data, name), name)
    if not _MODEL.search(data):
        return WorldTokenizer(parse_json(data, name), name)
    vocabulary = greedy_vocabulary(data, name)
    return HuggingFaceTokenizer(data, name) if vocabulary is None else WorldTokenizer(vocabulary, name)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False  # reading it says why


def _as_utf8(data: bytes, name: str) -> bytes:
    """Return a text file without a byte order mark, in UTF-8 if it was in UTF-16."""
    if data.startswith(_UTF16):
        try:
            return data.decode("utf-16").encode("utf-8")
        except UnicodeError as error:
            raise TokenizerError(
                f"{name}: expected UTF-16, as its first bytes say, got something else: {error}"
            ) from None
    return data.removeprefix(codecs.BOM_UTF8)


def _meant(path: Path) -> str:
    """Return what to do about a vocabulary that cannot be read."""
    from difflib import get_close_matches

    near = next(iter(get_close_matches(str(path), ("bytes", "world"), 1, _SIMILARITY)), None)
    meant = near if near or os.path.exists(path) else similar_path(path)  # noqa: PTH110 (any name)
    return f"did you mean {meant}?" if meant else 'expected "bytes", "world" or the path of a vocabulary'


def _read_file(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = file.read(MAX_JSON_BYTES + 1) if regular else b""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        where = complete_url(str(path)) or path
        raise StorageError(f"{where}: cannot be read ({reason}); {_meant(path)}") from None
    if not regular:
        raise StorageError(f"{path}: expected a regular file; name a vocabulary file")
    if len(data) > MAX_JSON_BYTES:
        raise TokenizerError(
            f"{path}: expected {_VOCABULARY}, of at most {byte_size(MAX_JSON_BYTES)}, got a larger file; "
            "name a vocabulary"
        )
    return data
