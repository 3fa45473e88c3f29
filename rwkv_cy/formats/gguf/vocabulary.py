r"""The vocabulary of a GGUF file: the bytes of each token, which RWKV's files hold as Python writes them.

Source: github.com/ggml-org/llama.cpp, conversion/base.py (``_set_vocab_rwkv_world``) and src/llama-vocab.cpp. A token
is the inside of ``repr(bytes)``, with ``\xff`` for bytes that are not printable; token 0, of type control, ends a text,
and ids without a token have the type unused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.gguf.container import read_values
from rwkv_cy.formats.gguf.header import Array, Value
from rwkv_cy.formats.gguf.types import INT32, STRING, UINT32

__all__ = [
    "CONTROL",
    "END_OF_TEXT",
    "MAX_TOKENS",
    "MODEL",
    "NORMAL",
    "NO_VOCABULARY",
    "RWKV",
    "TOKENS",
    "TOKEN_TYPES",
    "UNUSED",
    "escaped",
    "is_gguf",
    "read_vocabulary",
    "unescaped",
]

MODEL, TOKENS, TOKEN_TYPES = "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
#: What MODEL says of a vocabulary of RWKV, and where there is none.
RWKV, NO_VOCABULARY = "rwkv", "none"
#: Shown for token 0, which ends a text.
END_OF_TEXT = b"<s>"
#: Types of tokens.
NORMAL, CONTROL, UNUSED = 1, 3, 5

#: The World vocabulary has 65,536.
MAX_TOKENS = 1 << 20
_LENGTH = struct.Struct("<Q")
_ESCAPE = rb"\\(?:x([0-9a-fA-F]{2})|([^x]))"
_ONE_LETTER = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as GGUF files do; raise StorageError if it cannot be read."""
    with FileBytes(path) as file:
        return file.size >= 4 and file.read_at(0, 4) == b"GGUF"


def read_vocabulary(path: Path) -> list[bytes]:
    """Return the bytes of each token of a GGUF file of RWKV, or of its vocabulary alone.

    Ids that stand for no text have no bytes: those of control tokens, and those that are unused.

    Raises
    ------
    FormatError
        If the file violates the format, or has no vocabulary.
    UnsupportedError
        If its vocabulary is of another kind of model.
    StorageError
        If the operating system reports an error.
    """
    with FileBytes(path) as file:
        values = read_values(file)
        _check_model(path, values)
        tokens = _array(path, values, TOKENS)
        if tokens.kind != STRING:
            raise FormatError(f"{path}: {TOKENS}: expected an array of strings; the file is damaged")
        texts = [unescaped(text) for text in _strings(file, tokens)]
        if TOKEN_TYPES not in values:
            # Token 0 has a text, "<s>", for people alone.
            return [b"", *texts[1:]]
        types = _array(path, values, TOKEN_TYPES)
        if types.kind not in (UINT32, INT32) or types.count != tokens.count:
            raise FormatError(
                f"{path}: {TOKEN_TYPES}: expected {tokens.count} integers, one for each token, got {types.count}; "
                "the file is damaged"
            )
        kinds = np.frombuffer(file.read_at(types.offset, types.nbytes), "<i4").tolist()
    return [b"" if kind in (CONTROL, UNUSED) else text for text, kind in zip(texts, kinds, strict=True)]


def unescaped(token: bytes) -> bytes:
    r"""Return the bytes of a token as llama.cpp reads it.

    A backslash stands before ``x`` and two digits, before ``t``, ``n`` or ``r``, or before any other character, which
    stands for itself.
    """
    if b"\\" not in token:
        return token
    return re.sub(_ESCAPE, _one, token)


def _one(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ONE_LETTER.get(match[2], match[2])


def escaped(token: bytes) -> bytes:
    """Return what a file holds for the bytes of a token."""
    return repr(token)[2:-1].encode()


def _check_model(path: Path, values: Mapping[str, Value]) -> None:
    model = values.get(MODEL)
    if model in (None, NO_VOCABULARY):
        raise FormatError(f"{path}: {MODEL}: expected the kind of the vocabulary, got none; the file has no vocabulary")
    if model != RWKV:
        raise UnsupportedError(
            f"{path}: {MODEL}: expected a vocabulary of kind {RWKV!r}, got {str(model)[:40]!r}; "
            "name the model's tokenizer.json or vocabulary file"
        )


def _array(path: Path, values: Mapping[str, Value], key: str) -> Array:
    value = values.get(key)
    if not isinstance(value, Array) or value.count > MAX_TOKENS:
        what = f"{value.count} elements" if isinstance(value, Array) else str(value)[:40]
        raise FormatError(f"{path}: {key}: expected an array of at most {MAX_TOKENS} elements, got {what}")
    return value


def _strings(file: FileBytes, array: Array) -> Iterator[bytes]:
    """Read the strings of an array, whose lengths were checked when it was passed by."""
    data, position = file.read_at(array.offset, array.nbytes), 0
    for _ in range(array.count):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        yield data[start:position]
