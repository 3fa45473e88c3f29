"""Log-probabilities of a prompt's own tokens, and the state after it, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from rwkv_cy.engine import TokenLogprobs
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass
from rwkv_cy.server.service import Service

__all__ = ["Scored", "score_prompt"]

#: Tokens that run in a call of the model: their logits are in memory, and between calls a request may end.
_CHUNK = 128


@dataclass(frozen=True)
class Scored:
    """A prompt that has been read.

    Attributes
    ----------
    logprobs : list of TokenLogprobs or None
        Of each token; None for the first, unless something predicts it.
    state : State
    logits : numpy.ndarray
        Of the next token.
    """

    logprobs: list[TokenLogprobs | None]
    state: State
    logits: npt.NDArray[Any]


async def score_prompt(service: Service, tokens: Sequence[int], top: int, state: State | None) -> Scored:
    """Read a prompt in a thread.

    Parameters
    ----------
    service : Service
    tokens : sequence of int
        At least one.
    top : int
        Likeliest tokens in the place of each.
    state : State or None
        To begin from.
    """
    logprobs: list[TokenLogprobs | None] = []
    logits: npt.NDArray[Any] | None = None
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        own, state, logits = await service.beside(_score, service.model, part, top, state, logits)
        logprobs += own
    assert state is not None
    assert logits is not None
    return Scored(logprobs, state, logits)


def _score(
    model: LanguageModel, tokens: Sequence[int], top: int, state: State | None, before: npt.NDArray[Any] | None
) -> tuple[list[TokenLogprobs | None], State, npt.NDArray[Any]]:
    rows, state = model.forward(tokens, state, all_logits=True)
    predictions = [before, *rows[:-1]]
    logprobs = [
        None if logits is None else TokenLogprobs.of(logits, token, top)
        for logits, token in zip(predictions, tokens, strict=True)
    ]
    return logprobs, state, rows[-1].copy()
