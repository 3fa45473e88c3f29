"""Divergence: how far the predictions of a model are from those of a reference, over a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.text.score import CHUNK_TOKENS, ScoringModel, as_tokens
from rwkv_cy.text.tokens import check_model
from rwkv_cy.toolkit.perplexity import PerplexityReport

__all__ = ["DivergenceReport", "divergence"]

#: Rows of logits that are compared at a time: a few MB of float64 for the largest vocabularies.
_ROWS = 8


@dataclass(frozen=True)
class DivergenceReport:
    """How the predictions of a model differ from those of a reference.

    Attributes
    ----------
    tokens : int
        Predicted tokens: all but the first.
    reference_nats, nats : float
        Sum of -ln p of these tokens, by the reference and by the model.
    kl : float
        Mean of the Kullback-Leibler divergence of the model's distributions from the reference's, in nats per token.
    largest_kl : float
        The largest of a token.
    same_top : int
        Tokens for which both give the same token the highest probability.
    """

    tokens: int
    reference_nats: float
    nats: float
    kl: float
    largest_kl: float
    same_top: int

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the reference, per token."""
        return PerplexityReport(self.tokens, self.reference_nats, None).perplexity

    @property
    def perplexity(self) -> float:
        """Perplexity of the model, per token."""
        return PerplexityReport(self.tokens, self.nats, None).perplexity

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON; what is not finite becomes None."""
        values = {
            **asdict(self),
            "reference_perplexity": self.reference_perplexity,
            "perplexity": self.perplexity,
        }
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def divergence(
    reference: ScoringModel[Any],
    model: ScoringModel[Any],
    text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    progress: Callable[[int, int], None] | None = None,
    num_threads: int | None = None,
    name: str = "text",
) -> DivergenceReport:
    """Compare the predictions of `model` with those of `reference` over `text`, in bounded memory.

    Parameters
    ----------
    reference, model : ScoringModel
        LanguageModels of one vocabulary.
    text : str, bytes or sequence of int
        The text, or its tokens; at least two of them. The reference's tokenizer encodes it.
    progress : callable, optional
        Called with the tokens done and the tokens of the text.
    num_threads : int, optional
        Threads to use.
    name : str, default "text"
        Name of the text in messages.

    Returns
    -------
    DivergenceReport

    Raises
    ------
    ConfigError
        If the vocabularies differ in size, or `text` is text and the reference does not have a tokenizer.
    TokenError
        If there are fewer than two tokens.
    NumericalError
        If a model gives logits that are not finite.
    """
    check_model("divergence", reference, text)
    if reference.vocab_size != model.vocab_size:
        raise ConfigError(
            f"divergence: expected models of one vocabulary, got {reference.vocab_size} and {model.vocab_size} tokens"
        )
    tokens = as_tokens(reference, text) if len(text) else np.empty(0, np.int64)
    if len(tokens) < 2:
        raise TokenError(f"{name}: expected at least two tokens, got {len(tokens)}")
    states: list[Any] = [None, None]
    nats = np.zeros(2)
    total = largest = 0.0
    same = 0
    last = len(tokens) - 1
    for start in range(0, last, CHUNK_TOKENS):
        end = min(start + CHUNK_TOKENS, last)
        logits = []
        for place, each in enumerate((reference, model)):
            rows, states[place] = each.forward(
                tokens[start:end], states[place], all_logits=True, in_place=start > 0, num_threads=num_threads
            )
            logits.append(rows)
        for first in range(0, end - start, _ROWS):
            expected, found = (_log_softmax(rows[first : first + _ROWS]) for rows in logits)
            following = tokens[start + first + 1 : start + first + 1 + len(expected)]
            places = np.arange(len(expected)), following
            nats -= expected[places].sum(), found[places].sum()
            kl = (np.exp(expected) * (expected - found)).sum(axis=1)
            total += float(kl.sum())
            largest = max(largest, float(kl.max()))
            same += int(np.count_nonzero(expected.argmax(axis=1) == found.argmax(axis=1)))
        if progress is not None:
            progress(end + 1, len(tokens))
    return DivergenceReport(last, float(nats[0]), float(nats[1]), max(total / last, 0.0), largest, same)


def _log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
