"""LanguageModel: embedding, encoder, ln_out and head; maps tokens to logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of, check_parameters
from rwkv_cy.checkpoint.checkpoint import check_layouts
from rwkv_cy.config import Config
from rwkv_cy.dtypes import array_dtype, check_activations
from rwkv_cy.errors import ConfigError, NumericalError
from rwkv_cy.kernels.dispatch import wake
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.model.batching import last_outputs, named, states_for
from rwkv_cy.model.encoder import CHUNK_TOKENS, Model
from rwkv_cy.model.hidden import HiddenStates, check_pooling, texts_as_tokens, unit
from rwkv_cy.model.loading import Loaded, load_parameters
from rwkv_cy.model.not_finite import LOGITS, Origin
from rwkv_cy.model.passes import Passes
from rwkv_cy.model.recorded import Recorded
from rwkv_cy.model.state import State
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter, as_parameter
from rwkv_cy.text import Generation, Logprobs, SamplingOptions, Tokenizer, generate, logprobs
from rwkv_cy.text.score import score
from rwkv_cy.text.tokens import check_token_array

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rwkv_cy.text import Grammar, LogitsProcessor, SamplingKeywords

__all__ = ["LanguageModel", "load"]


class LanguageModel(Recorded):
    """A language model: computes the logits of the next token from a state and new tokens.

    Use :func:`load` or :meth:`new` to make one.

    Parameters
    ----------
    config : Config
        With a `vocab_size`.
    parameters : mapping of str to Parameter or numpy.ndarray
        Every parameter of the architecture, by canonical name. Arrays of a suitable type and layout are used without a
        copy, and must not be modified later.
    tokenizer : Tokenizer, optional
        Tokenizer for text.
    fingerprint : str, optional
        Digest of the parameters; computed by default.
    activations : {"f32", "bf16"}, default "f32"
        Precision of the activations that bf16 matrices are multiplied with, as for :func:`load`.

    Raises
    ------
    ConfigError
        If the config does not have a vocabulary, or `activations` has another value.
    SpecError
        If parameters are missing, unexpected or of the wrong shape (the message names all of them), or if a parameter
        other than a matrix is quantized, compressed or transposed.

    Attributes
    ----------
    passes : Passes
        Runs parts of many texts in one pass over the weights; for engines.

    Notes
    -----
    Several threads may use one model at once, each with its own state.
    """

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, Parameter | npt.NDArray[Any]],
        tokenizer: Tokenizer | None = None,
        fingerprint: str | None = None,
        *,
        activations: str = "f32",
    ) -> None:
        if config.vocab_size < 1:
            raise ConfigError("LanguageModel: expected a Config with a vocab_size, got 0; give the number of tokens")
        config = architecture_of(config).complete(config)
        own = {name: as_parameter(value, name) for name, value in parameters.items()}
        check_parameters(config, {name: value.shape for name, value in own.items()}, "LanguageModel")
        check_layouts(config, own, "LanguageModel")
        self._setup(Loaded.of_arrays(config, own, tokenizer, fingerprint), activations)

    @classmethod
    def _of(cls, loaded: Loaded, activations: str) -> LanguageModel:
        model = cls.__new__(cls)
        model._setup(loaded, activations)
        return model

    def _setup(self, loaded: Loaded, activations: str) -> None:
        config = loaded.config
        self.config = config
        self._loaded = loaded
        self._closed = False
        self.activations = activations
        self.encoder = Model(
            config, loaded.parameters, loaded.fingerprint, divide_weights=True, activations=activations
        )
        self._embedding = Embedding(loaded.parameters["emb.weight"], config.compute_dtype)
        self._head = Head(loaded.parameters, config.compute_dtype, config.layer_norm_eps, activations)
        self._origin = Origin(config, loaded.parameters, self._embedding, self.encoder)
        self._hidden = HiddenStates(self._embedding, self.encoder, self._head, self._origin)
        self.passes = Passes(self._embedding, self.encoder, self._head, self._origin, self._begin, self._check_open)

    @classmethod
    def new(cls, config: Config, rng: np.random.Generator | int, tokenizer: Tokenizer | None = None) -> LanguageModel:
        """Return a model with initial values, as the RWKV authors initialise before training.

        Parameters
        ----------
        config : Config
            With a `vocab_size`.
        rng : numpy.random.Generator or int
            Source of randomness, or a seed for one.
        tokenizer : Tokenizer, optional
            Tokenizer for text.
        """
        generator = np.random.default_rng(rng)
        dtype = array_dtype(config.compute_dtype)
        config = architecture_of(config).complete(config)
        specs = [spec for spec in architecture_of(config).parameters(config) if not spec.optional]
        return cls(config, {spec.name: spec.initialise(generator).astype(dtype) for spec in specs}, tokenizer)

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.config.vocab_size

    @property
    def fingerprint(self) -> str:
        """Digest of the parameters, which the states carry."""
        return self._loaded.fingerprint

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if neither the file nor the caller provides one."""
        return self._loaded.tokenizer

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Every parameter by canonical name; read-only if it is in a mapped file."""
        return self._loaded.parameters

    def __repr__(self) -> str:
        return f"LanguageModel({self._loaded.summary()})"

    def initial_state(self) -> State:
        """Return the state before the first token."""
        return self.encoder.initial_state()

    def forward(
        self,
        tokens: int | Sequence[int] | npt.NDArray[np.integer[Any]],
        state: State | None = None,
        *,
        all_logits: bool = False,
        in_place: bool = False,
        out: State | None = None,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], State]:
        """Run one token or many, and return the logits of the next token.

        Parameters
        ----------
        tokens : int or sequence of int
            One token, or a sequence of at least one. All at once or one at a time gives the same bits.
        state : State, optional
            The result of an earlier call; None starts from the initial state.
        all_logits : bool, default False
            Return the logits after every token, not only after the last.
        in_place : bool, default False
            False leaves `state` unchanged and returns a new one. True updates `state` in place, without copying or
            allocating a state, and returns it. If an in-place call fails, `state` becomes invalid.
        out : State, optional
            A state of this model to overwrite and return, instead of a new one. If the call fails, it becomes invalid,
            and `state`, unless it is the same, is unchanged: two states in turn are a way to go on after an interrupt,
            without allocations.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        logits : numpy.ndarray
            Shape (vocab_size,), or (len(tokens), vocab_size) with `all_logits`; float32, float64 in an f64 model.
        state : State
            After the last token.

        Raises
        ------
        TokenError
            If there are no tokens, or one is outside the vocabulary.
        StateError
            If `state` or `out` belongs to another model.
        NumericalError
            If the logits are not finite; the message says which layer first produced NaN or Inf.
        FormatError
            If the model file has been truncated since it was loaded.
        ConfigError
            If `num_threads` is out of range, both `in_place` and `out` are given, or the model is closed.
        """
        ids = check_token_array(tokens, self.vocab_size)
        threads = self._begin(num_threads)
        before = self.encoder.numbers(state)
        after = self.encoder.state_after(state, in_place=in_place, out=out)
        result = np.empty((len(ids) if all_logits else 1, self.vocab_size), before.dtype)
        finite, read = True, before
        try:
            for start in range(0, len(ids), CHUNK_TOKENS):
                chunk = ids[start : start + CHUNK_TOKENS]
                xs = self._embedding.rows(chunk)
                self.encoder.run(xs, [read], [after.data], [0, len(xs)], threads, last_only=not all_logits, ids=chunk)
                read = after.data
                if all_logits:
                    finite &= self._logits(xs, result[start : start + len(xs)], threads)
            if not all_logits:
                finite = self._logits(xs[-1:], result, threads)
            if not finite:
                raise NumericalError(self._origin.describe(ids, before, after.data, threads, LOGITS))
        except BaseException:
            after.invalidate()
            raise
        after.complete()
        return (result if all_logits else result[0]), after

    def forward_batch(
        self,
        sequences: Sequence[int | Sequence[int] | npt.NDArray[np.integer[Any]]],
        states: Sequence[State | None] | None = None,
        *,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], list[State]]:
        """Run several sequences at once, each with its own state; every weight is read once for all of them.

        Parameters
        ----------
        sequences : sequence of (int or sequence of int)
            The tokens of each sequence, at least one; lengths may differ.
        states : sequence of State or None, optional
            One for each sequence; None starts from the initial state.
        in_place : bool, default False
            False leaves the states unchanged and returns new ones. True updates them in place; if such a call fails,
            they become invalid.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        logits : numpy.ndarray
            Shape (sequences, vocab_size): the logits after the last token of each, with the same bits as from
            :meth:`forward`.
        states : list of State
            After the last token of each.

        Raises
        ------
        ConfigError
            If there are not as many states as sequences, two sequences share a state in place, or `num_threads` is out
            of range.
        TokenError, StateError, NumericalError, FormatError
            As for :meth:`forward`; the message says which sequence.
        """
        given = states_for(sequences, states, in_place)
        checked = partial(check_token_array, vocab_size=self.vocab_size)
        ids = [named(i, checked, tokens) for i, tokens in enumerate(sequences)]
        threads = self._begin(num_threads)
        dtype = array_dtype(self.config.compute_dtype)
        if not ids:
            return np.empty((0, self.vocab_size), dtype=dtype), []
        before = [named(i, self.encoder.numbers, state) for i, state in enumerate(given)]
        after = [self.encoder.state_after(state, in_place=in_place) for state in given]
        result = np.empty((len(ids), self.vocab_size), dtype)
        try:
            numbers = [state.data for state in after]
            last = last_outputs(self._embedding, self.encoder, ids, before, numbers, threads)
            if not self._logits(last, result, threads):
                i = int(np.isfinite(result).all(axis=1).argmin())
                where = self._origin.describe(ids[i], before[i], after[i].data, threads, LOGITS)
                raise NumericalError(f"sequence {i}: {where}")
        except BaseException:
            for state in after:
                state.invalidate()
            raise
        return result, after

    def hidden(
        self,
        tokens: int | Sequence[int] | npt.NDArray[np.integer[Any]],
        state: State | None = None,
        *,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], State]:
        """Run one token or many, and return their hidden states after ``ln_out``, which the head maps to logits.

        Parameters
        ----------
        tokens, state, in_place, num_threads
            As for :meth:`forward`, which raises the same errors.

        Returns
        -------
        hidden : numpy.ndarray
            Shape (len(tokens), d_model); float32, float64 in an f64 model. What transformers calls
            ``last_hidden_state``.
        state : State
            After the last token.
        """
        ids = check_token_array(tokens, self.vocab_size)
        threads = self._begin(num_threads)
        before = self.encoder.numbers(state)
        after = self.encoder.state_after(state, in_place=in_place)
        try:
            with self._loaded.reading():
                return self._hidden.of_tokens(ids, before, after.data, threads), after
        except BaseException:
            after.invalidate()
            raise

    def embed(
        self,
        text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]] | Sequence[str | bytes | Sequence[int]],
        *,
        pooling: str = "mean",
        normalize: bool = False,
        num_threads: int | None = None,
    ) -> npt.NDArray[Any]:
        """Return a vector that stands for a text: its hidden states after ``ln_out``, pooled.

        Parameters
        ----------
        text : str, bytes or sequence of int, or a sequence of them
            A text or its tokens, at least one; or several texts, which run in batches.
        pooling : {"mean", "last"}, default "mean"
            ``"mean"`` averages over all tokens; ``"last"`` takes the hidden state after the last token, from which the
            model predicts the next.
        normalize : bool, default False
            Scale each vector to Euclidean length 1, so that a dot product is the cosine of the angle.
        num_threads : int, optional
            Threads to use; the result is the same for every number, and does not depend on the other texts.

        Returns
        -------
        numpy.ndarray
            Shape (d_model,) for a text, (texts, d_model) for several; float32, float64 in an f64 model.

        Raises
        ------
        ConfigError
            If `pooling` is unknown, or a text is str or bytes and the model does not have a tokenizer.
        TokenizerError, TokenError, NumericalError, FormatError
            As for encoding a text and for :meth:`forward`; of several texts, the message says which.
        """
        check_pooling(pooling)
        ids, one = texts_as_tokens(self, text)
        threads = self._begin(num_threads)
        with self._loaded.reading():
            vectors = self._hidden.of_texts(ids, pooling, threads)
        if normalize:
            vectors = unit(vectors)
        return vectors[0] if one else vectors

    def generate(
        self,
        prompt: str | bytes | Iterable[int] = "",
        *,
        state: State | None = None,
        logits: npt.NDArray[np.float32] | None = None,
        max_tokens: int | None = 256,
        options: SamplingOptions | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        grammar: Grammar | None = None,
        seed: np.random.Generator | int | None = None,
        stop: str | Iterable[str] = (),
        stop_tokens: Iterable[int] | None = None,
        tokenizer: Tokenizer | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> Generation[State]:
        """Continue `prompt`, yielding pieces of text as they come.

        Parameters
        ----------
        prompt, state, logits, max_tokens, options, seed, stop, stop_tokens, tokenizer, logits_processors, grammar
            As for :func:`rwkv_cy.text.generate`.
        **sampling
            ``temperature``, ``top_p`` and every other field of :class:`rwkv_cy.text.SamplingOptions`.

        Returns
        -------
        Generation
            An iterator over pieces of text, with `tokens`, `state` and `finish_reason`.

        Raises
        ------
        GenerationError, TokenizerError, TokenError
            Immediately, if an argument is out of range, a tokenizer is missing, or the prompt is empty and there are
            no logits to continue from.
        NumericalError
            While iterating, if the logits are not finite.
        """
        return generate(
            self,
            prompt,
            state=state,
            logits=logits,
            max_tokens=max_tokens,
            options=options,
            seed=seed,
            stop=stop,
            stop_tokens=stop_tokens,
            tokenizer=tokenizer,
            logits_processors=logits_processors,
            grammar=grammar,
            **sampling,
        )

    def score(
        self,
        text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        state: State | None = None,
        num_threads: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the natural logarithm of the probability of each token, NaN for the first, which nothing predicts.

        Parameters
        ----------
        text, state, num_threads
            As for :func:`rwkv_cy.text.score.score`, which returns the same: float64 [tokens].
        """
        return score(self, text, state=state, num_threads=num_threads)

    def logprobs(
        self,
        text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        top: int = 0,
        state: State | None = None,
        logits: npt.NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> Logprobs:
        """Return log-probability and rank of each token, and the `top` likeliest: :func:`rwkv_cy.text.logprobs`.

        Parameters
        ----------
        text, top, state, logits, num_threads
            As for that function.
        """
        return logprobs(self, text, top=top, state=state, logits=logits, num_threads=num_threads)

    def load_state(self, path: str | os.PathLike[str]) -> State:
        """Read a state of this model from a file.

        Parameters
        ----------
        path : path-like
            A file that :meth:`State.save` wrote, or a state-tuned file that holds only ``blocks.i.att.time_state``.

        Raises
        ------
        StateError
            If the state does not fit the model.
        FormatError, StorageError
            If the file is damaged or cannot be read.
        """
        from rwkv_cy.model.state_files import load_state  # which most runs do not need

        return load_state(self, path)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model to a model file, with its tokenizer; `path` is complete afterwards, or unchanged.

        Parameters keep their types. Matrices with a sparse input and low-rank factors are stored transposed.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Replace a model file of that name. A file of another kind is never replaced.

        Raises
        ------
        StorageError
            If the file exists and may not be replaced, or the operating system refuses.
        TokenizerError
            If the tokenizer has more tokens than the model.
        """
        self._check_open()
        from rwkv_cy.model.saving import save_parameters  # which most runs do not need

        save_parameters(path, self._loaded, overwrite=overwrite)

    def close(self) -> None:
        """Close the model file. The parameters stay valid, but further calls raise ConfigError."""
        if not self._closed:
            self._closed = True
            self._loaded.close()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, num_threads: int | None) -> int:
        """Wake the threads, and return their number; raise an error if the model is closed or its file truncated."""
        threads = resolve_num_threads(num_threads)
        wake(threads)
        self._check_open()
        return threads

    def _check_open(self) -> None:
        """Raise an error if the model is closed, or its mapped file has been truncated."""
        if self._closed:
            raise ConfigError("LanguageModel: expected an open model, got one that was closed; load it again")
        self._loaded.check()

    def _logits(self, xs: npt.NDArray[Any], result: npt.NDArray[Any], num_threads: int) -> bool:
        """Compute the logits after each token into `result`, check the file, and return whether all are finite."""
        workspace = self.encoder.take_workspace()
        try:
            return self._head.logits(xs, result, workspace, num_threads)
        finally:
            self.encoder.return_workspace(workspace)
            self._check_open()


def load(
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    mmap: bool = True,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    rescale_layer: int | None = None,
    activations: str = "f32",
    progress: Callable[[int, int], None] | None = None,
) -> LanguageModel:
    """Load a model file, or a checkpoint of another program directly.

    Parameters
    ----------
    path : path-like
        A model file, a checkpoint (.pth, .safetensors, rwkv.cpp .bin), or a Hugging Face folder, recognised by
        content; or one on the Hugging Face hub: ``"hf:owner/name/file"``.
    dtype : {"f32", "f16", "bf16", "f64", "bf12", "q8", "q6", "q4", "q4n"}, optional
        Convert matrices, head and embedding to this type in memory, as :func:`rwkv_cy.convert` does: beside quantized
        matrices the embedding is f16 or bf16, and low-rank factors are q8; beside others factors keep their type, as
        vectors and tables of tokens do. None uses all as they are stored. ``"f64"`` computes in float64 throughout;
        ``"bf12"`` gives what ``"bf16"`` does, to the last bit, in less memory.
    mmap : bool, default True
        Use the matrices in place, through a memory map: loading takes milliseconds, and processes share the pages. The
        file must not be modified while it is mapped. Matrices that are converted, and all where the file system cannot
        map, are read into memory. False reads everything, in pages of 2 MiB if the system provides them.
    tokenizer : str, path-like or Tokenizer, optional
        Replaces the file's own tokenizer: ``"bytes"``, ``"world"``, or a vocabulary file, a folder with one, or a model
        file that has one.
    rescale_layer : int, optional
        Halve the residual stream after each group of this many layers. Not needed in float32. None follows the file.
    activations : {"f32", "bf16"}, default "f32"
        ``"bf16"`` rounds activations to bf16, nearest even, before the product with a matrix or low-rank factor in
        bf16, but not sums or the state. For CPUs with AMX, by AMD with AVX512-BF16, and by ARM with BF16; others do not
        run prompts faster.
    progress : callable, optional
        Called with the bytes done and the bytes of all tensors that are read into memory rather than mapped; by
        several threads, one at a time.

    Returns
    -------
    LanguageModel

    Raises
    ------
    StorageError
        If the operating system refuses access.
    FormatError
        If the file is damaged or its format is not supported; UnsupportedError and SpecError are more specific.
    NotEnoughMemoryError
        If the weights must be read into memory and do not fit.
    ConfigError
        If `dtype` or `activations` has another value, or `dtype` would requantize quantized matrices.
    """
    check_activations(activations)  # before any file is read
    loaded = load_parameters(
        path, dtype=dtype, mmap=mmap, tokenizer=tokenizer, rescale_layer=rescale_layer, progress=progress
    )
    return LanguageModel._of(loaded, activations)
