"""The tokenizer of plain bytes: the id of a byte is its value."""

from __future__ import annotations

from collections.abc import Iterable

from rwkv_cy.text.tokenizers.utf8 import Utf8Stream, decode_text, encode_text
from rwkv_cy.text.tokens import check_tokens

__all__ = ["ByteTokenizer"]


class ByteTokenizer:
    """Plain bytes: 256 ids, without an end-of-text token."""

    kind: str = "bytes"
    vocab_size: int = 256
    end_of_text: int | None = None

    def __repr__(self) -> str:
        return "ByteTokenizer()"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text` in UTF-8; TokenizerError if it has a lone surrogate."""
        return list(encode_text(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the bytes of `data`."""
        return list(bytes(data))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return `tokens` as bytes; TokenError if one is not an integer from 0 to 255."""
        return bytes(check_tokens(tokens, self.vocab_size))

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; invalid UTF-8 becomes U+FFFD, or is treated as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> Utf8Stream:
        """Return a decoder for a stream of tokens."""
        return Utf8Stream(self.decode_bytes)

    def to_bytes(self) -> bytes:
        """Return the data that a model file stores: none."""
        return b""
