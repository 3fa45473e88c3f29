"""Recorded passes of a language model: from tokens to logits or to a cross-entropy, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.errors import ConfigError
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.kernels.head_gradient import HeadGradient
from rwkv_cy.model.batching import named
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.gradients import Gradients, LoRA, buffers, choose, kept_bytes
from rwkv_cy.model.state import State
from rwkv_cy.model.tape import EncoderGradient, Recording, Tape, state_of, states_before
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.text.tokens import check_token_array

__all__ = ["LanguageGradient", "LanguageTape"]

Array = npt.NDArray[Any]


class LanguageGradient:
    """The parts of a language model for recorded passes.

    Parameters
    ----------
    encoder : Model
    embedding : Embedding
    head : Head
    parameters : mapping of str to Parameter
    adapters : mapping of str to LoRA, optional

    Raises
    ------
    UnsupportedError
        If the version does not have a backward pass.
    """

    def __init__(
        self,
        encoder: Model,
        embedding: Embedding,
        head: Head,
        parameters: Mapping[str, Parameter],
        adapters: Mapping[str, LoRA] | None = None,
    ) -> None:
        config = encoder.config
        self.layers = EncoderGradient(encoder, adapters)
        self.embedding = embedding
        self.head = HeadGradient(head.matrix, parameters, config.compute_dtype, config.layer_norm_eps)
        outer = ("emb.weight", *HeadGradient.names)
        self.shapes = {**self.layers.shapes, **{name: parameters[name].shape for name in outer}}
        stored = [name for name in outer if parameters[name].dtype not in MATRIX_TYPES and not adapters]
        self.default = [*self.layers.default, *stored]
        self.vocab_size = config.vocab_size

    def record(
        self,
        tokens: Any,
        state: State | Sequence[State | None] | None,
        trainable: str | Iterable[str] | None,
        memory: int | None,
        num_threads: int | None,
        *,
        logits: bool,
    ) -> tuple[Any, Any, LanguageTape]:
        """Run one sequence of tokens or several, and record the pass: :meth:`LanguageModel.record`."""
        encoder = self.layers.encoder
        batch = isinstance(tokens, (list, tuple)) and len(tokens) > 0 and np.ndim(tokens[0]) == 1
        checked = partial(check_token_array, vocab_size=self.vocab_size)
        ids = [named(i, checked, own) for i, own in enumerate(tokens)] if batch else [checked(tokens)]
        threads = resolve_num_threads(num_threads)
        chosen = choose(self.shapes, self.default, trainable)
        states, before = states_before(encoder, state, len(ids), batch)
        recording = Recording(
            self.layers,
            [len(own) for own in ids],
            lambda i, start, end: self.embedding.rows(ids[i][start:end]),
            before,
            ids if self.layers.stack.vocab_size else [None] * len(ids),
            threads,
            kept_bytes(memory),
        )
        tape = LanguageTape(self, recording, chosen, [given is None for given in states], ids, batch=batch)
        after = [state_of(encoder, data) for data in recording.after]
        result = tape.logits(threads) if logits else None
        return (result, after, tape) if batch else (result if result is None else result[0], after[0], tape)


class LanguageTape(Tape):
    """A recorded pass of tokens through a language model: :meth:`LanguageModel.record` makes it.

    It keeps the states between segments, the output of the last layer for every token, and activations up to a number
    of bytes; the others are computed again. It can be used more than once.
    """

    def __init__(
        self,
        gradient: LanguageGradient,
        recording: Recording,
        trainable: frozenset[str],
        fresh: Sequence[bool],
        ids: Sequence[npt.NDArray[np.int64]],
        *,
        batch: bool,
    ) -> None:
        super().__init__(gradient.layers, recording, trainable, fresh, batch=batch)
        self._language = gradient
        self._ids = ids

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the gradients of the trainable parameters, by canonical name."""
        return {name: shape for name, shape in self._language.shapes.items() if name in self.trainable}

    def logits(self, num_threads: int | None = None) -> list[Array]:
        """Return the logits after every token of each sequence, shape (tokens, vocab_size)."""
        threads, encoder = resolve_num_threads(num_threads), self._gradient.encoder
        workspace = encoder.take_workspace()
        result = []
        for x in self._recording.outputs:
            out = np.empty((len(x), self._language.vocab_size), x.dtype)
            self._language.head.logits(x, out, workspace, threads)
            result.append(out)
        encoder.return_workspace(workspace)
        return result

    def backward(
        self,
        d_ys: Any,
        d_state: State | Sequence[State | None] | None = None,
        *,
        parameters: Mapping[str, Array] | None = None,
        num_threads: int | None = None,
    ) -> Gradients:
        """Return the gradients of a loss.

        Parameters
        ----------
        d_ys : array_like
            Gradient of the logits, shape (tokens, vocab_size); a sequence of them after a batch.
        d_state, parameters, num_threads
            As for :meth:`Tape.backward`, which raises the same errors.
        """
        dtype = self._recording.outputs[0].dtype
        given = [np.ascontiguousarray(d, dtype) for d in (d_ys if self._batch else [d_ys])]
        if [d.shape for d in given] != [(length, self._language.vocab_size) for length in self._recording.lengths]:
            raise ConfigError(
                f"d_ys: expected arrays (tokens, {self._language.vocab_size}) of {self._recording.lengths} tokens, got "
                f"{[d.shape for d in given]}"
            )

        def of_head(gradients: list[Array | None], workspace: Any, threads: int) -> list[Array]:
            result = []
            for x, d in zip(self._recording.outputs, given, strict=True):
                result.append(np.empty_like(x))
                self._language.head.backward(x, d, result[-1], gradients, workspace, threads)
            return result

        return self._back(of_head, d_state, parameters, num_threads)

    def cross_entropy(
        self,
        targets: Any,
        weights: Any = None,
        d_state: State | Sequence[State | None] | None = None,
        *,
        l2_wrap: float = 0.0,
        parameters: Mapping[str, Array] | None = None,
        num_threads: int | None = None,
    ) -> tuple[Any, Gradients]:
        """Return the cross-entropy of the token after each, and the gradients of their weighted sum.

        Logits are computed for a part of the tokens at a time, and never for a token of weight 0.

        Parameters
        ----------
        targets : sequence of int
            The right token after each token; a sequence of them after a batch.
        weights : array_like, optional
            The loss is the sum of the losses of the tokens times these; by default their mean over all sequences.
        d_state, parameters, num_threads
            As for :meth:`Tape.backward`, which raises the same errors.
        l2_wrap : float, default 0.0
            Added to the gradient of each token's largest logit: `l2_wrap` times it times the weight. The authors train
            with 1e-4.

        Returns
        -------
        losses : numpy.ndarray, or list of numpy.ndarray
            float64 [tokens]: the negative logarithm of the probability of each target; NaN where the weight is 0.
        gradients : Gradients
        """
        lengths = self._recording.lengths
        check = partial(check_token_array, vocab_size=self._language.vocab_size, what="targets")
        ids = [check(own) for own in (targets if self._batch else [targets])]
        total = sum(lengths)
        if weights is None:
            shares = [np.full(length, 1 / total) for length in lengths]
        else:
            shares = [np.asarray(own, np.float64) for own in (weights if self._batch else [weights])]
        for what, arrays in (("targets", ids), ("weights", shares)):
            if [array.shape for array in arrays] != [(length,) for length in lengths]:
                raise ConfigError(
                    f"{what}: expected one for each of {lengths} tokens, got {[array.shape for array in arrays]}"
                )
        flat = np.concatenate(shares)
        rows = np.flatnonzero(flat)
        losses = np.full(total, np.nan)

        def of_head(gradients: list[Array | None], workspace: Any, threads: int) -> list[Array]:
            x = np.concatenate(self._recording.outputs)[rows]
            own, dx = np.empty(len(rows)), np.zeros((total, x.shape[1]), x.dtype)
            d_rows = np.empty_like(x)
            self._language.head.cross_entropy(
                x, np.concatenate(ids)[rows], flat[rows], l2_wrap, own, d_rows, gradients, workspace, threads
            )
            losses[rows], dx[rows] = own, d_rows
            return self._split(dx)

        gradients = self._back(of_head, d_state, parameters, num_threads)
        parts = self._split(losses)
        return (parts if self._batch else parts[0]), gradients

    def _split(self, array: Array) -> list[Array]:
        return np.split(array, np.cumsum(self._recording.lengths)[:-1])

    def _back(
        self,
        of_head: Callable[[list[Array | None], Any, int], list[Array]],
        d_state: State | Sequence[State | None] | None,
        parameters: Mapping[str, Array] | None,
        num_threads: int | None,
    ) -> Gradients:
        """Go back through the head by `of_head`, then through layers and embedding."""
        encoder, threads = self._gradient.encoder, resolve_num_threads(num_threads)
        states = self.state_gradients(d_state)
        own = buffers(self.shapes, states[0].dtype, parameters)
        workspace = encoder.take_workspace()
        try:
            d_outputs = of_head([own.get(name) for name in HeadGradient.names], workspace, threads)
        finally:
            encoder.return_workspace(workspace)
        d_inputs = self._recording.backward(d_outputs, states, own, threads)
        self.add_initial_state(states, own)
        if "emb.weight" in own:
            for ids, d in zip(self._ids, d_inputs, strict=True):
                np.add.at(own["emb.weight"], ids, d)
        return self.gradients(own, d_inputs, states)
