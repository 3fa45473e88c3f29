"""Perplexity: how well a model predicts a text, in one pass with the state carried through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, TokenError

if TYPE_CHECKING:
    from rwkv_cy.model.language_model import LanguageModel

__all__ = ["PerplexityReport", "perplexity"]

#: Tokens whose logits are in memory at a time: 64 MB of them at the largest vocabulary.
_CHUNK = 256


@dataclass(frozen=True)
class PerplexityReport:
    """How well a model predicted a text.

    Attributes
    ----------
    tokens : int
        Tokens that were predicted: all but the first of each window.
    nats : float
        Sum of -ln p over them.
    text_bytes : int or None
        Bytes of the tokens predicted; None without a tokenizer.
    """

    tokens: int
    nats: float
    text_bytes: int | None

    @property
    def perplexity(self) -> float:
        """The exponential of the mean of -ln p, per token."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float | None:
        """Mean of -log2 p per byte of text: comparable between vocabularies."""
        return None if not self.text_bytes else self.nats / math.log(2) / self.text_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {**asdict(self), "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}


def perplexity(
    model: LanguageModel,
    text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
) -> PerplexityReport:
    """Measure how well `model` predicts `text`.

    Memory is bounded, whatever the length of the text.

    Parameters
    ----------
    model : LanguageModel
    text : str, bytes or sequence of int
        The text, or its tokens; at least two of them.
    window : int, optional
        Begin anew, from the initial state, after every so many tokens; None carries the state through.
    progress : callable, optional
        Called with the tokens done and the tokens of the text.
    num_threads : int, optional
        Threads to use.

    Returns
    -------
    PerplexityReport

    Raises
    ------
    ConfigError
        If `window` is below 2, or the model has no tokenizer for a text.
    TokenError
        If there are fewer than two tokens.
    """
    if window is not None and window < 2:
        raise ConfigError(f"window: expected at least 2 tokens, got {window}")
    tokenizer = model.tokenizer
    if isinstance(text, (str, bytes)):
        if tokenizer is None:
            raise ConfigError("perplexity: expected a model with a tokenizer for a text, got one without; give tokens")
        tokens = np.asarray(tokenizer.encode(text) if isinstance(text, str) else tokenizer.encode_bytes(text))
    else:
        tokens = np.asarray(text)
    if len(tokens) < 2:
        raise TokenError(f"text: expected at least two tokens, got {len(tokens)}")
    window = window or len(tokens)
    nats, count, length = 0.0, 0, 0
    for start in range(0, len(tokens), window):
        state = None
        end = min(start + window, len(tokens))
        for first in range(start, end - 1, _CHUNK):
            last = min(first + _CHUNK, end - 1)
            logits, state = model.forward(
                tokens[first:last], state, all_logits=True, in_place=True, num_threads=num_threads
            )
            following = tokens[first + 1 : last + 1]
            rows = logits.astype(np.float64)
            largest = rows.max(axis=1)
            log_sum = largest + np.log(np.exp(rows - largest[:, np.newaxis]).sum(axis=1))
            nats += float((log_sum - rows[np.arange(len(following)), following]).sum())
            count += len(following)
            if tokenizer is not None:
                length += len(tokenizer.decode_bytes(following.tolist()))
            if progress is not None:
                progress(last + 1, len(tokens))
    return PerplexityReport(count, nats, length if tokenizer is not None else None)
