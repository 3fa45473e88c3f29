"""A tokenizer's vocabulary as llguidance takes it, made once for each tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from rwkv_cy.errors import MissingDependencyError, TokenizerError
from rwkv_cy.text.tokenizers import Tokenizer

__all__ = ["grammar_vocabulary", "require_llguidance"]

#: llguidance takes a token that begins with this byte, which UTF-8 does not have, for a special one.
_SPECIAL = b"\xff"

_made: WeakKeyDictionary[Tokenizer, Any] = WeakKeyDictionary()
_lock = threading.Lock()


class _Vocabulary:
    """What llguidance asks of a tokenizer.

    Attributes
    ----------
    tokens : list of bytes
        The bytes of each token; ``b""`` for one that a grammar never allows.
    eos_token_id : int
        Ends a text: the tokenizer's own token, or else an id after its vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [_token_bytes(tokenizer, token) for token in range(tokenizer.vocab_size)]
        end = tokenizer.end_of_text
        self.eos_token_id = len(self.tokens) if end is None else end
        if end is None:
            self.tokens.append(b"")
        self.tokens[self.eos_token_id] = b""
        self.bos_token_id = None
        self.special_token_ids: Sequence[int] = [self.eos_token_id]

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        try:
            return self._tokenizer.encode_bytes(data)
        except TokenizerError:  # of a vocabulary that does not have all bytes: the text is then not forced
            return []


def _token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        data = tokenizer.decode_bytes([token])
    except TokenizerError:  # an id that stands for no text
        return b""
    return b"" if data.startswith(_SPECIAL) else data


def require_llguidance() -> Any:
    """Return the module llguidance.

    Raises
    ------
    MissingDependencyError
        If it is not installed, or is the empty package that pip installs where there are no wheels.
    """
    try:
        import llguidance

        llguidance.LLMatcher  # noqa: B018
    except (ImportError, AttributeError):
        raise MissingDependencyError("grammars need llguidance: pip install 'rwkv-cy[grammar]'") from None
    return llguidance


def grammar_vocabulary(tokenizer: Tokenizer) -> Any:
    """Return llguidance's object for a tokenizer. The first call for a tokenizer takes half a second for 65,536 tokens.

    Raises
    ------
    MissingDependencyError
        If llguidance is not installed.
    """
    llguidance = require_llguidance()
    with _lock:
        made = _made.get(tokenizer)
        if made is None:
            words = _Vocabulary(tokenizer)
            made = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(words), n_vocab=len(words.tokens), eos_token=[words.eos_token_id]
            )
            _made[tokenizer] = made
        return made
