"""The interface of tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from rwkv_cy.text.tokenizers.utf8 import TextStream

__all__ = ["Tokenizer"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back.

    Attributes
    ----------
    kind : str
        ``"bytes"``, ``"world"`` or ``"huggingface"``; a model file stores it beside :meth:`to_bytes`.
    vocab_size : int
        Ids go from 0 to ``vocab_size - 1``.
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
        """Return the ids of `data`, which need not be UTF-8 if the tokenizer works on bytes."""
        ...

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`."""
        ...

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; `errors` is ``"replace"``, ``"ignore"`` or ``"strict"``, for invalid UTF-8."""
        ...

    def stream(self) -> TextStream:
        """Return a decoder for a stream of tokens."""
        ...

    def to_bytes(self) -> bytes:
        """Return the data that a model file stores."""
        ...
