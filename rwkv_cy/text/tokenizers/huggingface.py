"""Tokenizers of the Hugging Face library (``tokenizer.json``), with exact bytes for byte-level vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, MissingDependencyError, TokenizerError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.text.tokenizers.byte_level import byte_of_character
from rwkv_cy.text.tokenizers.expansion import MAX_EXPANSION, expansion
from rwkv_cy.text.tokenizers.utf8 import TextStream, Utf8Stream, decode_text, encode_text
from rwkv_cy.text.tokens import check_tokens

__all__ = ["MAX_JSON_BYTES", "HuggingFaceTokenizer"]

#: Size limit of a ``tokenizer.json``; that of the Pile models has 2.1 MB.
MAX_JSON_BYTES = 64 << 20
#: A file with larger ids is damaged.
MAX_ID = 1 << 24
END_OF_TEXT = "<|endoftext|>"
#: Types of model that the library has.
_MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")


class HuggingFaceTokenizer:
    """A ``tokenizer.json``, run by the ``tokenizers`` library; among RWKV models, the Pile models use one (20B).

    Texts are encoded without adding special tokens, padding or truncation. Special tokens decode to an empty text.
    With a byte-level decoder (GPT-2, 20B) `decode_bytes` is exact for every token; with any other decoder, the
    library decodes whole texts.

    Parameters
    ----------
    data : bytes
        The file's contents.
    name : str
        The file's name, for messages.

    Raises
    ------
    MissingDependencyError
        If the ``tokenizers`` library is not installed.
    TokenizerError
        If the library cannot read the file.
    """

    kind: str = "huggingface"

    def __init__(self, data: bytes, name: str = "tokenizer.json") -> None:
        if len(data) > MAX_JSON_BYTES:
            raise TokenizerError(f"{name}: expected at most {MAX_JSON_BYTES} bytes, got {len(data)}")
        try:
            import tokenizers
        except ImportError:
            raise MissingDependencyError(f"{name}: needs the tokenizers library: pip install tokenizers") from None
        self._data = data
        self._tokenizer = _read(tokenizers.Tokenizer, data, name)
        _check_expansion(self._tokenizer, name)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise TokenizerError(f"{name}: expected a vocabulary, got an empty one")
        self.vocab_size: int = max(vocabulary.values()) + 1
        if self.vocab_size > MAX_ID:
            raise TokenizerError(f"{name}: expected ids below {MAX_ID}, got {self.vocab_size - 1}")
        self.end_of_text: int | None = vocabulary.get(END_OF_TEXT)
        self._bytes: dict[int, bytes] | None = None
        if isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel):
            self._bytes = _bytes_of_ids(vocabulary, self._tokenizer.get_added_tokens_decoder())

    def __repr__(self) -> str:
        return f"HuggingFaceTokenizer({self.vocab_size} ids)"

    def to_bytes(self) -> bytes:
        """Return the data that a model file stores: the contents of the ``tokenizer.json``."""
        return self._data

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises
        ------
        TokenizerError
            If `text` is not a str, has a lone surrogate, or the vocabulary does not cover a part of it.
        """
        encode_text(text)
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except BaseException as error:
            _reraise_foreign(error)
            raise TokenizerError(f"text: this tokenizer.json cannot encode it: {error}") from None

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of bytes that are valid UTF-8; TokenizerError for others, which cannot be encoded."""
        try:
            text = bytes(data).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"text: expected UTF-8, which a tokenizer.json needs, got an invalid byte at offset {error.start} "
                f"({error.reason}); convert the text to UTF-8 first (iconv -f its-encoding -t UTF-8)"
            ) from None
        return self.encode(text)

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`; TokenError if one is not an integer in ``0 .. vocab_size - 1``."""
        ids = check_tokens(tokens, self.vocab_size)
        if self._bytes is None:
            return self._decode(ids).encode("utf-8")
        table = self._bytes
        return b"".join(table.get(token, b"") for token in ids)

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; invalid UTF-8 becomes U+FFFD, or is treated as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> TextStream:
        """Return a decoder for a stream of tokens."""
        return _WindowStream(self) if self._bytes is None else Utf8Stream(self.decode_bytes)

    def _decode(self, ids: list[int]) -> str:
        try:
            text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        except BaseException as error:
            _reraise_foreign(error)
            raise TokenizerError(f"tokens: this tokenizer.json cannot decode them: {error}") from None
        return text


class _WindowStream:
    """Decodes tokens whose text depends on their neighbours, by decoding a short window with each new token."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._returned = 0  # tokens of the window whose text was returned

    def push(self, token: int) -> str:
        self._window += check_tokens([token], self._tokenizer.vocab_size)
        return self._new_text(final=False)

    def finish(self) -> str:
        text = self._new_text(final=True)
        self._window, self._returned = [], 0
        return text

    def _new_text(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._returned])
        text = self._tokenizer.decode(self._window)
        if len(text) <= len(before) or (text.endswith("\ufffd") and not final):
            return ""
        self._window, self._returned = self._window[self._returned :], len(self._window) - self._returned
        return text[len(before) :]


def _read(tokenizer_class: Any, data: bytes, name: str) -> Any:
    try:
        return tokenizer_class.from_str(data.decode("utf-8"))
    except BaseException as error:
        _reraise_foreign(error)
        raise TokenizerError(f"{name}: {_reason(data, str(error))}") from None


def _reason(data: bytes, message: str) -> str:
    """Return why the library could not read a file, and what to do: its own message names no cause."""
    try:
        model = parse_object(Path("tokenizer.json"), "tokenizer", data)["model"]["type"]
    except (FormatError, KeyError, TypeError):
        return f"not a tokenizer.json: {message}; download it again"
    if model not in _MODELS:
        return (
            f"expected a model of type {', '.join(_MODELS)}, got {str(model)[:40]!a}, which the tokenizers library "
            "does not have; for a World model, name its vocabulary (rwkv_vocab_v20230424.txt) instead"
        )
    return (
        f"not a tokenizer.json that the installed tokenizers library reads: {message}; if it is complete, a later "
        "version of the library wrote it: pip install --upgrade tokenizers"
    )


def _reraise_foreign(error: BaseException) -> None:
    """Raise `error` again unless it comes from the library: an Exception, or Rust's PanicException (a BaseException).

    The library panics on some malformed files, and on regular expressions that take too long.
    """
    if isinstance(error, MemoryError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error


def _check_expansion(tokenizer: Any, name: str) -> None:
    """Raise TokenizerError if a step of the file can make a text far longer."""
    steps = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    for step in steps:
        factor = 1.0 if step is None else expansion(json.loads(step.__getstate__()))
        if factor > MAX_EXPANSION:
            raise TokenizerError(
                f"{name}: expected a tokenizer.json that lengthens a text at most {MAX_EXPANSION} times, got one that "
                f"lengthens it {factor:.3g} times; download it again from the model's authors"
            )


def _bytes_of_ids(vocabulary: dict[str, int], added: dict[int, Any]) -> dict[int, bytes]:
    byte_of = byte_of_character()
    table = {}
    for token, number in vocabulary.items():
        if number in added:
            continue
        try:
            table[number] = bytes(byte_of[character] for character in token)
        except KeyError:
            table[number] = token.encode("utf-8")
    for number, token in added.items():
        table[number] = b"" if token.special else token.content.encode("utf-8")
    return table
