"""UTF-8: encoding with clear errors, and decoding piece by piece without splitting a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Protocol

from rwkv_cy.errors import TokenizerError

__all__ = ["TextStream", "Utf8Stream", "decode_text", "encode_text", "surrogate_error"]


class TextStream(Protocol):
    """Decodes a stream of tokens."""

    def push(self, token: int) -> str:
        """Take one token; return the text that it completes, which may be empty."""
        ...

    def finish(self) -> str:
        """End the text: return what was held back, incomplete characters as U+FFFD. The stream can be used again."""
        ...


class Utf8Stream:
    """Decodes tokens that stand for bytes of UTF-8.

    A character is returned with the token that completes it. Bytes that cannot be part of any character
    become U+FFFD, as with ``bytes.decode(errors="replace")``; none are dropped.

    Parameters
    ----------
    decode_bytes : callable
        Returns the bytes of a list of tokens.
    """

    def __init__(self, decode_bytes: Callable[[list[int]], bytes]) -> None:
        self._decode_bytes = decode_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Take one token; return the characters that it completes.

        Raises
        ------
        TokenError
            If the token is not in the vocabulary; the stream is then unchanged.
        """
        return self._decoder.decode(self._decode_bytes([token]))

    def finish(self) -> str:
        """Return an incomplete character as U+FFFD, and reset."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def encode_text(text: str) -> bytes:
    """Encode in UTF-8.

    Raises
    ------
    TokenizerError
        If `text` is not a str, or has a lone surrogate, which UTF-8 cannot represent.
    """
    if not isinstance(text, str):
        raise TokenizerError(f"text: expected str, got {type(text).__name__}; encode_bytes takes bytes")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise surrogate_error(error) from None


def surrogate_error(error: UnicodeEncodeError) -> TokenizerError:
    """Return the error that says where a text has a lone surrogate."""
    return TokenizerError(
        f"text: expected characters, got the lone surrogate {error.object[error.start]!a} at index {error.start}; "
        'remove it, or read the text with errors="replace"'
    )


def decode_text(data: bytes, errors: str) -> str:
    """Decode UTF-8; `errors` is ``"replace"``, ``"ignore"`` or ``"strict"``.

    Raises
    ------
    TokenizerError
        If `errors` is something else, or is ``"strict"`` and the bytes are not valid UTF-8.
    """
    if errors not in ("replace", "ignore", "strict"):
        raise TokenizerError(f'errors: expected "replace", "ignore" or "strict", got {errors!r}')
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f'tokens: expected UTF-8, invalid byte at offset {error.start} ({error.reason}); use errors="replace"'
        ) from None
