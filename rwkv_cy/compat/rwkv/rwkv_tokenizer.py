"""Tokenizers with the methods and the results of the authors' package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from rwkv_cy.errors import TokenError, TokenizerError
from rwkv_cy.text import Tokenizer, find_tokenizer

__all__ = ["TRIE_TOKENIZER", "PackageTokenizer"]

_REPLACEMENT = "\ufffd"


class PackageTokenizer:
    """A tokenizer of this package with the methods of the authors'.

    Parameters
    ----------
    tokenizer : Tokenizer
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def idx2token(self) -> Mapping[int, bytes]:
        """The bytes of each id that has some."""
        pieces = ((number, self._tokenizer.decode_bytes([number])) for number in range(self._tokenizer.vocab_size))
        return {number: piece for number, piece in pieces if piece}

    @cached_property
    def token2idx(self) -> Mapping[bytes, int]:
        """The id of each token's bytes."""
        return {piece: number for number, piece in self.idx2token.items()}

    def encode(self, src: str) -> list[int]:
        """Return the ids of a text; TokenizerError if it cannot be encoded."""
        return self._tokenizer.encode(src)

    def encodeBytes(self, src: bytes) -> list[int]:  # noqa: N802 (the authors' name)
        """Return the ids of any bytes."""
        return self._tokenizer.encode_bytes(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of `tokens`.

        With a vocabulary of bytes it is one U+FFFD if they are not valid UTF-8 together, or one of them has no bytes.
        """
        if self._tokenizer.kind == "huggingface":
            return self._tokenizer.decode(tokens)
        try:
            pieces = [self._tokenizer.decode_bytes([token]) for token in tokens]
            return b"".join(pieces).decode("utf-8") if all(pieces) else _REPLACEMENT
        except (TokenError, UnicodeDecodeError):
            return _REPLACEMENT

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:  # noqa: N802 (the authors' name)
        """Return the bytes of `tokens`; TokenError if an id is not in the vocabulary."""
        return self._tokenizer.decode_bytes(tokens)

    def printTokens(self, tokens: Iterable[int]) -> None:  # noqa: N802 (the authors' name)
        """Print each token and its id."""
        for token in tokens:
            piece = self._tokenizer.decode_bytes([token])
            try:
                shown = repr(piece.decode("utf-8"))
            except UnicodeDecodeError:
                shown = repr(piece)
            print(f"{shown}{token}", end=" ")
        print()


class TRIE_TOKENIZER(PackageTokenizer):  # noqa: N801 (the authors' name)
    """A tokenizer of a vocabulary of bytes, from its file.

    Parameters
    ----------
    file_name : path-like
        ``rwkv_vocab_v20230424.txt``, or another vocabulary.

    Raises
    ------
    TokenizerError
        If the file is not one.
    StorageError
        If it cannot be read.
    """

    def __init__(self, file_name: str | os.PathLike[str]) -> None:
        tokenizer = find_tokenizer(Path(file_name))
        if tokenizer.kind == "huggingface":
            raise TokenizerError(f"{file_name}: expected a vocabulary of bytes, got a tokenizer.json")
        super().__init__(tokenizer)
