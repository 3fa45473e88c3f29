"""Perplexity: how well a model predicts a text, in one pass that carries the state along."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.text.score import ScoringModel, as_tokens, score_chunks
from rwkv_cy.text.tokens import check_model
from rwkv_cy.toolkit.schema_names import named

__all__ = ["PerplexityReport", "perplexity"]


@dataclass(frozen=True)
class PerplexityReport:
    """How well a model predicted a text.

    Attributes
    ----------
    tokens : int
        Predicted tokens: all but the first of each window.
    nats : float
        Sum of -ln p over them.
    text_bytes : int or None
        Bytes of the predicted tokens; None without a tokenizer.
    """

    tokens: int
    nats: float
    text_bytes: int | None

    @property
    def perplexity(self) -> float:
        """The exponential of the mean of -ln p, per token; inf where it is too large for a float."""
        try:
            return math.exp(self.nats / self.tokens)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Mean of -log2 p per byte of text, comparable between vocabularies; None without a tokenizer."""
        return None if not self.text_bytes else self.nats / math.log(2) / self.text_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON; a perplexity that is inf becomes None."""
        value = self.perplexity
        perplexity = value if math.isfinite(value) else None
        return named("perplexity", {**asdict(self), "perplexity": perplexity, "bits_per_byte": self.bits_per_byte})


def perplexity(
    model: ScoringModel[Any],
    text: str | bytes | os.PathLike[str] | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    name: str | None = None,
) -> PerplexityReport:
    """Measure how well `model` predicts `text`, in bounded memory.

    Parameters
    ----------
    model : ScoringModel
        A LanguageModel of any version, or anything with its `forward`, `tokenizer` and `vocab_size`.
    text : str, bytes, Path or sequence of int
        The text, a ``Path`` of the file that contains it, or its tokens; at least two of them. A str is the text
        itself, never a path.
    window : int, optional
        Restart from the initial state after this many tokens; None carries the state along.
    progress : callable, optional
        Called with the tokens done and the tokens of the text.
    num_threads : int, optional
        Threads to use.
    name : str, optional
        Name of the text in messages; by default the path of the file, or ``"text"``.

    Returns
    -------
    PerplexityReport

    Raises
    ------
    ConfigError
        If `model` or `text` is of another type, `window` is below 2, or `text` is text and the model does not have a
        tokenizer.
    TokenError
        If there are fewer than two tokens.
    StorageError
        If the operating system refuses to read the file.
    """
    if window is not None and window < 2:
        raise ConfigError(f"window: expected at least 2 tokens, got {window}")
    check_model("perplexity", model, text)
    name = name or (str(text) if isinstance(text, os.PathLike) else "text")
    if isinstance(text, os.PathLike):
        path = Path(text)
        with os_errors(path, "read"):
            text = path.read_bytes()
    if not hasattr(text, "__len__"):
        raise ConfigError(
            f"text: expected str, bytes, token ids or the Path of a text file, got {type(text).__name__}; convert it"
        )
    tokens = as_tokens(model, text) if len(text) else np.empty(0, np.int64)
    if len(tokens) < 2:
        raise TokenError(f"{name}: expected at least two tokens, got {len(tokens)}")
    tokenizer = model.tokenizer
    nats, count, length = 0.0, 0, 0
    for start in range(0, len(tokens), window or len(tokens)):
        part = tokens[start : start + window] if window else tokens
        done = 1
        for scores in score_chunks(model, part, num_threads=num_threads):
            nats -= float(scores.sum())
            count += len(scores)
            if tokenizer is not None:
                length += len(tokenizer.decode_bytes(part[done : done + len(scores)].tolist()))
            done += len(scores)
            if progress is not None:
                progress(start + done, len(tokens))
    return PerplexityReport(count, nats, length if tokenizer is not None else None)
