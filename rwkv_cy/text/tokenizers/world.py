"""The RWKV World tokenizer: greedy longest match over a vocabulary of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from rwkv_cy.errors import TokenizerError
from rwkv_cy.files.vocabulary_files import VOCABULARY_FILE
from rwkv_cy.text.tokenizers.utf8 import Utf8Stream, decode_text, encode_text
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, pack, parse_text, unpack
from rwkv_cy.text.tokens import check_tokens

__all__ = ["WorldTokenizer"]

#: The published vocabulary has tokens of at most 128 bytes, 373,358 in all. Encoding tries each prefix of a token at
#: each place of a text, and keeps all prefixes in memory: at these limits, about 250 MB.
MAX_TOKEN_BYTES = 256
MAX_TOTAL_BYTES = 1 << 20

#: What the table of prefixes holds for a prefix of tokens that is not a token itself.
_NOT_A_TOKEN = -1
#: Bytes of text that are encoded without the table of prefixes: making it takes longer than encoding them.
_WITHOUT_TABLE = 1 << 15


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
        world = len(tokens) == WORLD_SIZE
        if world and tokens[0]:
            raise TokenizerError(f"{name}: expected no bytes for id 0, which ends a text, got {tokens[0][:20]!r}")
        longest, total = max(map(len, tokens)), sum(map(len, tokens))
        if longest > MAX_TOKEN_BYTES or total > MAX_TOTAL_BYTES:
            raise TokenizerError(
                f"{name}: expected tokens of at most {MAX_TOKEN_BYTES} bytes, {MAX_TOTAL_BYTES} in all, got {longest} "
                f"and {total}; this is not a vocabulary of RWKV, download {VOCABULARY_FILE} again"
            )
        ids = {token: number for number, token in enumerate(tokens) if token}
        if len(ids) != len(tokens) - tokens.count(b""):
            twice = next(number for number, token in enumerate(tokens) if token and ids[token] != number)
            raise TokenizerError(
                f"{name}: expected different tokens, got the same bytes for ids {twice} and {ids[tokens[twice]]}"
            )
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
        if world and missing:
            raise TokenizerError(
                f"{name}: expected a token for each of the 256 bytes, got {256 - len(missing)} (the first missing is "
                f"{missing[0]:#04x}); the vocabulary is incomplete, download {VOCABULARY_FILE} again"
            )
        self.vocab_size: int = len(tokens)
        self.end_of_text: int | None = None if tokens[0] else 0
        self._tokens = tokens
        self._ids = ids
        self._longest = longest
        self._encoded = 0  # bytes, before the table is made

    @cached_property
    def _prefixes(self) -> dict[bytes, int]:
        """Every prefix of every token, with its id where it is a token; made when much text is encoded."""
        table = {token[:length]: _NOT_A_TOKEN for token in self._ids for length in range(1, len(token))}
        return table | self._ids

    @classmethod
    def from_text(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read a text format, as :func:`~rwkv_cy.text.tokenizers.vocabulary.parse_text` does."""
        return cls(parse_text(data, name), name)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "vocabulary") -> WorldTokenizer:
        """Read the result of :meth:`to_bytes`; TokenizerError if it is damaged."""
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
            If `text` is not a str, has a lone surrogate, or has what a small vocabulary lacks.
        """
        return self.encode_bytes(encode_text(text))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes; TokenizerError names the first that a small vocabulary lacks."""
        data = bytes(data)
        self._encoded += len(data)
        return self._encode_by_prefixes(data) if self._encoded > _WITHOUT_TABLE else self._encode_by_lengths(data)

    def _encode_by_lengths(self, data: bytes) -> list[int]:
        """Encode by trying all lengths of tokens at each place, the longest first."""
        lookup = self._ids.get
        ids, start, size = [], 0, len(data)
        while start < size:
            after = min(start + self._longest, size)
            number = lookup(data[start:after])
            while number is None:
                after -= 1
                if after == start:
                    raise self._lacking(data, start)
                number = lookup(data[start:after])
            ids.append(number)
            start = after
        return ids

    def _encode_by_prefixes(self, data: bytes) -> list[int]:
        """Encode by growing each token until no token begins like that."""
        lookup = self._prefixes.get
        ids, start, size = [], 0, len(data)
        while start < size:
            end, after = start + 1, start
            number = lookup(data[start:end])
            while number is not None:  # some token begins with data[start:end]
                if number != _NOT_A_TOKEN:
                    longest, after = number, end
                end += 1
                number = lookup(data[start:end]) if end <= size else None
            if after == start:
                raise self._lacking(data, start)
            ids.append(longest)
            start = after
        return ids

    def _lacking(self, data: bytes, start: int) -> TokenizerError:
        """Return the error for a text with something at `start` that the vocabulary lacks."""
        shown = data[start : start + 16].decode("utf-8", "backslashreplace")
        return TokenizerError(
            f"text: expected characters of the vocabulary, got {shown!a} at byte {start}, which begins with no "
            f"token of it; this vocabulary of {self.vocab_size} ids cannot encode every text"
        )

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of `tokens`; TokenError if one is not an integer in ``0 .. vocab_size - 1``."""
        return b"".join([self._tokens[token] for token in check_tokens(tokens, self.vocab_size)])

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `tokens`; invalid UTF-8 becomes U+FFFD, or is treated as `errors` says."""
        return decode_text(self.decode_bytes(tokens), errors)

    def stream(self) -> Utf8Stream:
        """Return a decoder for a stream of tokens."""
        return Utf8Stream(self.decode_bytes)
