"""What a tokenizer is, the one of plain bytes, and how the right one is found."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from rwkv_cy.errors import StorageError, TokenizerError
from rwkv_cy.text.huggingface import MAX_JSON_BYTES, HuggingFaceTokenizer
from rwkv_cy.text.tokens import check_tokens
from rwkv_cy.text.utf8 import TextStream, Utf8Stream, decode_text, encode_text
from rwkv_cy.text.vocabulary import is_packed
from rwkv_cy.text.world import WorldTokenizer, packaged_vocabulary

__all__ = ["ByteTokenizer", "Tokenizer", "find_tokenizer", "load_tokenizer"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes
    ----------
    kind : str
        ``"bytes"``, ``"world"`` or ``"huggingface"``; a model file stores it beside :meth:`to_bytes`.
    vocab_size : int
        Ids go from 0 to one below.
    end_of_text : int or None
        The id that ends a text, if there is one.
    """

    kind: str
    vocab_size: int
    end_of_text: int | None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        ...

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of `data`, which need not be UTF-8 where the tokenizer works on bytes."""
        ...

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`."""
        ...

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; `errors` says what becomes of bytes that are no UTF-8."""
        ...

    def stream(self) -> TextStream:
        """Return a decoder for tokens that come one by one."""
        ...

    def to_bytes(self) -> bytes:
        """Return what a model file stores."""
        ...


class ByteTokenizer:
    """Plain bytes: 256 ids, each its own byte, none that ends a text."""

    kind: str = "bytes"
    vocab_size: int = 256
    end_of_text: int | None = None

    def __repr__(self) -> str:
        return "ByteTokenizer()"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text` in UTF-8; TokenizerError if it has half of a surrogate pair."""
        return list(encode_text(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the bytes of `data`."""
        return list(bytes(data))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return `tokens` as bytes; TokenError if one is no integer or lies outside 0 .. 255."""
        return bytes(check_tokens(tokens, self.vocab_size))

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; bytes that are no UTF-8 become U+FFFD, or as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> Utf8Stream:
        """Return a decoder for tokens that come one by one."""
        return Utf8Stream(self.decode_bytes)

    def to_bytes(self) -> bytes:
        """Return what a model file stores: nothing."""
        return b""


def load_tokenizer(kind: str, data: bytes, name: str = "tokenizer") -> Tokenizer:
    """Restore a tokenizer from its `kind` and what its `to_bytes` gave.

    Raises
    ------
    TokenizerError
        If the kind is unknown or the data damaged.
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
        If the file is neither.
    StorageError
        If the file cannot be read.
    MissingDependencyError
        If ``"world"`` is asked for and the ``rwkv`` package is not installed, or the ``tokenizers`` library is
        needed and is not.
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
        # without O_NONBLOCK, opening a FIFO would wait for its writer
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
        raise StorageError(f"{path}: expected a file, got something else; name a vocabulary file")
    if len(data) > MAX_JSON_BYTES:
        raise TokenizerError(f"{path}: expected a vocabulary of at most {MAX_JSON_BYTES} bytes, got a longer file")
    return data
