"""The RWKV World tokenizer: greedy longest match over 65,536 ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rwkv_cy.errors import KernelError, MissingDependencyError, TokenizerError
from rwkv_cy.kernels.trie import Trie
from rwkv_cy.text.utf8 import Utf8Stream, decode_text, surrogate_error
from rwkv_cy.text.vocabulary import WORLD_SIZE, pack, parse_text, unpack

__all__ = ["WorldTokenizer", "packaged_vocabulary"]

VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"

#: The published vocabulary has tokens of at most 128 bytes, 373,358 in all. Longer tokens make encoding slow (each is
#: tried at each byte of a text), and each byte of them takes 70 of memory.
MAX_TOKEN_BYTES = 1024
MAX_TOTAL_BYTES = 4 << 20


class WorldTokenizer:
    """The tokenizer of the RWKV World models, over bytes: any bytes go in, and come back the same.

    Id 0 ends a text. It, and the few ids that the vocabulary leaves out, decode to nothing.

    Parameters
    ----------
    tokens : sequence of bytes
        The bytes of each id, ``WORLD_SIZE`` of them, the first empty.
    name : str
        Where they come from, for messages.

    Raises
    ------
    TokenizerError
        If there are more or fewer, they are longer than any in use, id 0 has bytes, two ids have the same, or one of
        the 256 bytes has no token of its own (then some text could not be encoded).
    """

    kind: str = "world"
    vocab_size: int = WORLD_SIZE
    end_of_text: int | None = 0

    def __init__(self, tokens: Sequence[bytes], name: str = "vocabulary") -> None:
        if len(tokens) != WORLD_SIZE:
            raise TokenizerError(f"{name}: expected {WORLD_SIZE} ids, got {len(tokens)}")
        if tokens[0]:
            raise TokenizerError(f"{name}: expected no bytes for id 0, which ends a text, got {tokens[0][:20]!r}")
        longest, total = max(map(len, tokens)), sum(map(len, tokens))
        if longest > MAX_TOKEN_BYTES or total > MAX_TOTAL_BYTES:
            raise TokenizerError(
                f"{name}: expected tokens of at most {MAX_TOKEN_BYTES} bytes, {MAX_TOTAL_BYTES} in all, got {longest} "
                f"and {total}; the vocabulary is none of RWKV World, get {VOCABULARY_FILE} anew"
            )
        single = {token[0] for token in tokens if len(token) == 1}
        if len(single) != 256:
            missing = min(set(range(256)) - single)
            raise TokenizerError(
                f"{name}: expected a token for each of the 256 bytes, got {len(single)} (the first missing is "
                f"{missing:#04x}); the vocabulary is incomplete, get {VOCABULARY_FILE} anew"
            )
        offsets = np.zeros(WORLD_SIZE + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, tokens), dtype=np.int64, count=WORLD_SIZE), out=offsets[1:])
        self._tokens = tokens
        try:
            self._trie = Trie(offsets, b"".join(tokens))
        except KernelError as error:
            raise TokenizerError(f"{name}: {error}") from None

    @classmethod
    def from_text(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read the published text format; TokenizerError names the line that is wrong."""
        return cls(parse_text(data, name), name)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read what :meth:`to_bytes` gave; TokenizerError if it is damaged."""
        return cls(unpack(data, name), name)

    def __repr__(self) -> str:
        return f"WorldTokenizer({self.vocab_size} ids)"

    def to_bytes(self) -> bytes:
        """Return what a model file stores."""
        return pack(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises
        ------
        TokenizerError
            If `text` is no str, or has half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"text: expected str, got {type(text).__name__}; encode_bytes takes bytes")
        try:
            return self._trie.encode(text)
        except UnicodeEncodeError as error:
            raise surrogate_error(error) from None

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes."""
        return self._trie.encode(bytes(data))

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`; TokenError if one is no integer or lies outside ``0 .. vocab_size - 1``."""
        return self._trie.decode(tokens)

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; bytes that are no UTF-8 become U+FFFD, or as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> Utf8Stream:
        """Return a decoder for tokens that come one by one."""
        return Utf8Stream(self.decode_bytes)


def packaged_vocabulary() -> Path:
    """Return the path of the vocabulary file that the ``rwkv`` package brings, without importing the package.

    Raises
    ------
    MissingDependencyError
        If the package is not installed, or has no such file.
    """
    try:
        spec = find_spec("rwkv")
    except ValueError:  # a module of that name without a spec is loaded
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / VOCABULARY_FILE
        if path.is_file():
            return path
    raise MissingDependencyError(
        "the World vocabulary is in the rwkv package, which is not here: pip install rwkv, "
        f"or name the file {VOCABULARY_FILE}"
    )
