"""The recorded pass of a language model, from which gradients are computed; loaded when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.loading import Loaded
from rwkv_cy.model.not_pickled import NotPickled
from rwkv_cy.model.state import State

if TYPE_CHECKING:
    from rwkv_cy.model.gradients import LoRA
    from rwkv_cy.model.language_tape import LanguageGradient, LanguageTape

__all__ = ["Recorded"]


class Recorded(NotPickled):
    """The part of a language model that records passes."""

    encoder: Model
    _embedding: Embedding
    _head: Head
    _loaded: Loaded
    _gradient: LanguageGradient | None = None

    def record(
        self,
        tokens: Sequence[int] | npt.NDArray[np.integer[Any]] | Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]],
        state: State | Sequence[State | None] | None = None,
        *,
        logits: bool = True,
        trainable: str | Iterable[str] | None = None,
        adapters: Mapping[str, LoRA] | None = None,
        memory: int | None = None,
        num_threads: int | None = None,
    ) -> tuple[Any, Any, LanguageTape]:
        """Run a sequence of tokens, or a list of several, and record what :meth:`LanguageTape.backward` needs.

        Parameters
        ----------
        tokens : sequence of int, or list of sequence of int
            At least one token; a list of several such sequences, whose lengths may differ.
        state : State, optional
            The result of an earlier call, left unchanged; None starts from the initial state. A sequence of them for
            several sequences. Gradients end at it: to truncate, record a long text in parts.
        logits : bool, default True
            Return the logits. False is for :meth:`LanguageTape.cross_entropy`, which never has all of them in memory.
        trainable : str or iterable of str, optional
            Names of the parameters that get a gradient, or patterns such as ``"blocks.*.att.*"``; the others are
            frozen. None stands for all but quantized matrices and tuned initial states, or for `adapters` alone.
        adapters : mapping of str to LoRA, optional
            Adapters by the name of their matrix, a matrix of a layer. The gradients of the factors of
            ``blocks.0.att.key.weight`` are ``blocks.0.att.key.lora_A`` and ``lora_B``. Pass the same mapping each time.
        memory : int, optional
            Bytes of activations to keep, 400 MiB by default; those beyond are computed again in the backward pass, from
            states that are kept every so many tokens.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        logits : numpy.ndarray, or list of numpy.ndarray, or None
            Shape (tokens, vocab_size): after every token. Quantized matrices are multiplied with activations that are
            not quantized.
        state : State, or list of State
            After the last token.
        tape : LanguageTape

        Raises
        ------
        TokenError
            If there are no tokens, or one is outside the vocabulary.
        ConfigError
            If a pattern does not match any parameter, or the model is closed.
        StateError
            If `state` belongs to another model.
        UnsupportedError
            If the version does not have a backward pass.
        """
        from rwkv_cy.model.language_tape import LanguageGradient

        threads = self._begin(num_threads)
        gradient = self._gradient
        if gradient is None or gradient.layers.adapters is not adapters:
            gradient = LanguageGradient(self.encoder, self._embedding, self._head, self._loaded.parameters, adapters)
            self._gradient = gradient
        return gradient.record(tokens, state, trainable, memory, threads, logits=logits)

    def _begin(self, num_threads: int | None) -> int:
        raise NotImplementedError
