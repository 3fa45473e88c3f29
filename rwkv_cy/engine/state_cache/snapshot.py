"""Snapshot: a state at a place of a text, and what it is worth to the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.engine.state_cache.places import WEIGHTS
from rwkv_cy.records import dataclass

__all__ = ["Snapshot"]


@dataclass(eq=False)
class Snapshot:
    """A state that the cache holds.

    Attributes
    ----------
    count : int
        Tokens that the state has read.
    data : numpy.ndarray
        The state; not modified.
    logits : numpy.ndarray or None
        Of the next token, if they are known.
    kind : str
        Of the place; a key of WEIGHTS.
    used : int
        When it was last used, in uses of the cache.
    hits : int
        How often a request began from it.
    """

    count: int
    data: npt.NDArray[Any]
    logits: npt.NDArray[np.floating[Any]] | None
    kind: str
    used: int
    hits: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the state and the logits."""
        return int(self.data.nbytes) + (0 if self.logits is None else int(self.logits.nbytes))

    def value(self, saved: int, now: int) -> float:
        """Return what it is worth, if it saves so many tokens compared with the next best snapshot."""
        return saved * (1 + self.hits) * WEIGHTS[self.kind] / (1 + now - self.used)
