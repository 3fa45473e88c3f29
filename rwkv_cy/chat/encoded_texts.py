"""EncodedTexts: the tokens of texts that were encoded before, so that a conversation is not encoded anew each turn."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from rwkv_cy.text import Tokenizer

__all__ = ["EncodedTexts"]

_MAX_BYTES = 32 << 20
#: Of an entry, beside its text and its tokens.
_OVERHEAD = 200


class EncodedTexts:
    """Encodes texts, and keeps the tokens of those used last. May be used by several threads.

    Parameters
    ----------
    tokenizer : Tokenizer
    max_bytes : int, default 32 MiB
        Limit of the texts and tokens that are kept.
    """

    def __init__(self, tokenizer: Tokenizer, max_bytes: int = _MAX_BYTES) -> None:
        self._tokenizer = tokenizer
        self._max_bytes = max_bytes
        self._known: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._lock = Lock()
        self.bytes = 0

    def encode(self, text: str, partition: str = "") -> Sequence[int]:
        """Return the tokens of a text.

        Parameters
        ----------
        text : str
        partition : str, default ""
            Texts are looked up in the same partition only: others do not learn from the time what was encoded before.

        Raises
        ------
        TokenizerError
            If it cannot be encoded.
        """
        key = partition, text
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        tokens = array("i", self._tokenizer.encode(text))
        with self._lock:
            if key not in self._known:
                self._known[key] = tokens
                self.bytes += _size(key, tokens)
            while self.bytes > self._max_bytes:
                self.bytes -= _size(*self._known.popitem(last=False))
        return tokens


def _size(key: tuple[str, str], tokens: array[int]) -> int:
    return _OVERHEAD + 4 * (len(key[1]) + len(tokens))
