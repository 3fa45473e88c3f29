"""The RWKV World tokenizer: greedy longest match over a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import TokenizerError
from rwkv_cy.files.vocabulary_files import VOCABULARY_FILE
from rwkv_cy.text.tokenizers.token_table import MAX_TOKEN_BYTES, TokenTable
from rwkv_cy.text.tokenizers.utf8 import Utf8Stream, decode_text, encode_text
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, pack_parts, parse_text, unpack_parts
from rwkv_cy.text.tokens import check_tokens

__all__ = ["WorldTokenizer"]

#: The published vocabulary has tokens of at most 128 bytes, 373,358 in all.
MAX_TOTAL_BYTES = 1 << 20


class WorldTokenizer:
    """The tokenizer of the RWKV World models, and of models with a small vocabulary of words or characters.

    It works on bytes. With the World vocabulary any bytes can be encoded, and decode to the same; a small one may lack
    some, which cannot be encoded. Id 0 ends a text, unless the vocabulary has bytes for it. Ids without bytes decode
    to nothing.

    Parameters
    ----------
    tokens : sequence of bytes
        The bytes of each id, at most ``WORLD_SIZE`` of them; those of the World vocabulary are as many.
    name : str
        Where they come from, for messages.

    Raises
    ------
    TokenizerError
        If there are more or none, they are longer than the limits, or two ids have the same bytes; in a vocabulary of
        the World's size, if id 0 has bytes, or one of the 256 bytes has no token of its own.
    """

    kind: str = "world"

    def __init__(self, tokens: Sequence[bytes], name: str = "vocabulary") -> None:
        if not 1 <= len(tokens) <= WORLD_SIZE:
            raise TokenizerError(f"{name}: expected 1 to {WORLD_SIZE} ids, got {len(tokens)}")
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        self._setup(lengths, b"".join(tokens), name)

    def _setup(self, lengths: npt.NDArray[np.integer[Any]], joined: bytes, name: str) -> None:
        """Take the tokens by their lengths and all their bytes, after checking them."""
        count = len(lengths)
        world = count == WORLD_SIZE
        if world and lengths[0]:
            shown = joined[: min(lengths[0], 20)]
            raise TokenizerError(f"{name}: expected no bytes for id 0, which ends a text, got {shown!r}")
        if lengths.max() > MAX_TOKEN_BYTES or len(joined) > MAX_TOTAL_BYTES:
            raise TokenizerError(
                f"{name}: expected tokens of at most {MAX_TOKEN_BYTES} bytes, {MAX_TOTAL_BYTES} in all, got "
                f"{lengths.max()} and {len(joined)}; this is not a vocabulary of RWKV, download {VOCABULARY_FILE} again"
            )
        self._lengths = lengths.astype(np.uint16)
        table = TokenTable(self._lengths, joined)
        if table.twice is not None:
            first, second = table.twice
            raise TokenizerError(f"{name}: expected different tokens, got the same bytes for ids {first} and {second}")
        missing = [byte for byte in range(256) if not table.has_byte(byte)]
        if world and missing:
            raise TokenizerError(
                f"{name}: expected a token for each of the 256 bytes, got {256 - len(missing)} (the first missing is "
                f"{missing[0]:#04x}); the vocabulary is incomplete, download {VOCABULARY_FILE} again"
            )
        self.vocab_size: int = count
        self.end_of_text: int | None = None if lengths[0] else 0
        self._table = table

    @classmethod
    def from_text(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read a text format, as :func:`~rwkv_cy.text.tokenizers.vocabulary.parse_text` does."""
        return cls(parse_text(data, name), name)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read the result of :meth:`to_bytes`; TokenizerError if it is damaged."""
        tokenizer = cls.__new__(cls)
        tokenizer._setup(*unpack_parts(data, name), name)
        return tokenizer

    def __repr__(self) -> str:
        return f"WorldTokenizer({self.vocab_size} ids)"

    def to_bytes(self) -> bytes:
        """Return what a model file stores."""
        return pack_parts(self._lengths, self._table.data)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises
        ------
        TokenizerError
            If `text` is not a str, has a lone surrogate, or has what a small vocabulary lacks.
        """
        return self.encode_bytes(encode_text(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes; TokenizerError names the first that a small vocabulary lacks."""
        data = bytes(data)
        ids, end = self._table.encode(data)
        if end < len(data):
            shown = data[end : end + 16].decode("utf-8", "backslashreplace")
            raise TokenizerError(
                f"text: expected characters of the vocabulary, got {shown!a} at byte {end}, which begins with no "
                f"token of it; this vocabulary of {self.vocab_size} ids cannot encode every text"
            )
        return ids

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`; TokenError if one is not an integer in ``0 .. vocab_size - 1``."""
        return b"".join(map(self._table.token, check_tokens(tokens, self.vocab_size)))

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; invalid UTF-8 becomes U+FFFD, or is treated as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> Utf8Stream:
        """Return a decoder for a stream of tokens."""
        return Utf8Stream(self.decode_bytes)
