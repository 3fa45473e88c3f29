"""One pass over the weights for parts of many texts: prompts, single tokens and drafts side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.not_finite import LOGITS, Origin
from rwkv_cy.records import dataclass

__all__ = ["Part", "Passes"]


@dataclass(frozen=True, eq=False)
class Part:
    """Tokens of one text that run in a pass.

    Attributes
    ----------
    ids : int64 [tokens]
        At least one, each in the vocabulary.
    read, write : numpy.ndarray
        The state before the tokens and after them, shape (num_layers, elements of a layer's state); they may be the
        same array. If `write` has a further dimension in front, (tokens, num_layers, elements), it receives the state
        after each token; `read` may be one of these.
    wanted : int, default 1
        After how many of the last tokens to compute logits: 0 to tokens.
    """

    ids: npt.NDArray[np.int64]
    read: npt.NDArray[Any]
    write: npt.NDArray[Any]
    wanted: int = 1

    @property
    def each_token(self) -> bool:
        """Whether the state after each token is written."""
        return self.write.ndim > self.read.ndim


class Passes:
    """Runs parts of texts through a model, each weight read once for all of them; `LanguageModel.passes` is one.

    Parameters
    ----------
    embedding : Embedding
    encoder : Model
    head : Head
    origin : Origin
        Describes where NaN and Inf come from.
    begin : callable
        Prepares a pass with so many threads (None: the usual number), and returns their number.
    check_open : callable
        Raises an error if the model is closed, or its file was truncated.
    """

    def __init__(
        self,
        embedding: Embedding,
        encoder: Model,
        head: Head,
        origin: Origin,
        begin: Callable[[int | None], int],
        check_open: Callable[[], None],
    ) -> None:
        self._embedding = embedding
        self._encoder = encoder
        self._head = head
        self._origin = origin
        self._begin = begin
        self._check_open = check_open

    def run(self, parts: Sequence[Part], num_threads: int | None = None) -> list[npt.NDArray[Any]]:
        """Run parts of texts at once. Logits and states have the same bits as if each ran alone, token by token.

        Parameters
        ----------
        parts : sequence of Part
            No two write to the same state.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        list of numpy.ndarray
            The logits of each part, shape (wanted, vocab_size), of the model's type. They may have NaN or Inf; then
            :meth:`describe` says where these come from.

        Raises
        ------
        FormatError
            If the model file has been truncated since it was loaded. The states that were written are then undefined,
            as after any exception.
        ConfigError
            If the model is closed, or `num_threads` is out of range.
        """
        threads = self._begin(num_threads)
        if not parts:
            return []
        starts = [0, *accumulate(len(part.ids) for part in parts)]
        ids = np.concatenate([part.ids for part in parts])
        xs = self._embedding.rows(ids)
        last_only = all(part.wanted <= 1 and not part.each_token for part in parts)
        self._encoder.run(
            xs,
            [part.read for part in parts],
            [part.write for part in parts],
            starts,
            threads,
            last_only=last_only,
            ids=ids,
        )
        rows = np.concatenate([np.arange(end - part.wanted, end) for part, end in zip(parts, starts[1:], strict=True)])
        logits = np.empty((len(rows), self._encoder.config.vocab_size), xs.dtype)
        workspace = self._encoder.take_workspace()
        try:
            self._head.logits(xs[rows], logits, workspace, threads, check=False)
        finally:
            self._encoder.return_workspace(workspace)
            self._check_open()
        ends = [*accumulate(part.wanted for part in parts)]
        return [logits[end - part.wanted : end] for part, end in zip(parts, ends, strict=True)]

    def describe(self, part: Part, num_threads: int | None = None) -> str:
        """Return where NaN or Inf in the logits of a part come from; its tokens run again if `read` is unchanged."""
        return self._origin.describe(part.ids, part.read, part.write, self._begin(num_threads), LOGITS)
