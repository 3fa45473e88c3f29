"""Constraints: callables that change the logits, or forbid tokens, before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import GenerationError

__all__ = ["LogitsProcessor", "apply_processors", "is_complete"]


class LogitsProcessor(Protocol):
    """A callable that changes logits before a token is chosen: a grammar, a list of allowed words.

    It may have a method ``is_complete(tokens)``: whether nothing can follow `tokens`. The text then ends.
    """

    def __call__(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> npt.NDArray[Any] | None:
        """Change `logits` in place and return None, or return an array to use instead.

        Parameters
        ----------
        tokens : sequence of int
            The tokens generated so far, without the prompt; must not be changed.
        logits : float32 [vocab_size]
            After biases, penalties and the processors before this one; -inf for a forbidden token. `vocab_size` is
            that of the model or of its tokenizer, whichever is smaller.

        Returns
        -------
        numpy.ndarray or None
            Shape (vocab_size,), numbers or -inf.
        """
        ...


def apply_processors(
    processors: Sequence[LogitsProcessor], tokens: Sequence[int], logits: npt.NDArray[np.float32]
) -> None:
    """Apply `processors` in order to `logits`, in place.

    Raises
    ------
    GenerationError
        If a processor returns an array of another shape, NaN or +inf, or forbids the last token that was left.
    """
    for position, processor in enumerate(processors):
        changed = processor(tokens, logits)
        if changed is not None and changed is not logits:
            changed = np.asarray(changed)
            if changed.shape != logits.shape or changed.dtype.kind not in "fiu":
                raise GenerationError(
                    f"logits_processors[{position}]: expected None or logits of shape {logits.shape}, "
                    f"got {changed.dtype} of shape {changed.shape}"
                )
            with np.errstate(over="ignore"):  # a float64 value beyond float32 is caught below
                logits[:] = changed
        highest = logits.max()
        if highest == -np.inf:
            raise GenerationError(
                f"logits_processors[{position}]: expected at least one allowed token after {len(tokens)} tokens, "
                "got -inf for all of them"
            )
        if not highest < np.inf:  # NaN compares false
            bad = int(np.flatnonzero(~(logits < np.inf))[0])
            raise GenerationError(
                f"logits_processors[{position}]: expected finite logits or -inf, got {logits[bad]} for token {bad}"
            )


def is_complete(processors: Sequence[LogitsProcessor], tokens: Sequence[int]) -> bool:
    """Return whether a processor says that nothing can follow `tokens`."""
    return any(processor.is_complete(tokens) for processor in processors if hasattr(processor, "is_complete"))
