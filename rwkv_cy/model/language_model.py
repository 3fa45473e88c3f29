"""LanguageModel: embedding, encoder, ln_out and head; tokens in and logits out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of, check_parameters
from rwkv_cy.checkpoint.checkpoint import check_layouts
from rwkv_cy.config import Config
from rwkv_cy.dtypes import check_activations
from rwkv_cy.errors import ConfigError, NumericalError, StateError, TokenError
from rwkv_cy.kernels.dispatch import wake
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.kernels.head import Head
from rwkv_cy.model.encoder import CHUNK_TOKENS, Model
from rwkv_cy.model.loading import Loaded, load_parameters
from rwkv_cy.model.saving import save_parameters
from rwkv_cy.model.state import LayerState, State
from rwkv_cy.model.state_files import load_state
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter, as_parameter
from rwkv_cy.text import Generation, SamplingOptions, Tokenizer, generate
from rwkv_cy.text.score import score
from rwkv_cy.text.tokens import check_token_array

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rwkv_cy.text import LogitsProcessor, SamplingKeywords

__all__ = ["LanguageModel", "load"]

_T = TypeVar("_T")


class LanguageModel:
    """A language model: logits of the next token from the tokens so far, held in a state.

    Made by :func:`load`, or by :meth:`new`.

    Parameters
    ----------
    config : Config
        With a `vocab_size`.
    parameters : mapping of str to Parameter or numpy.ndarray
        Every parameter of the architecture, by canonical name. The arrays are used as they are where their
        type and layout allow it, and must not change later.
    tokenizer : Tokenizer, optional
        For text.
    fingerprint : str, optional
        Of the parameters; computed where it is not given.
    activations : {"f32", "bf16"}, default "f32"
        What matrices in bf16 are multiplied with, as for :func:`load`.

    Raises
    ------
    ConfigError
        If the config has no vocabulary, or `activations` is another.
    SpecError
        If parameters are missing, unexpected or of the wrong shape: all are named at once; or if others than
        matrices are quantized, packed, or lie transposed.

    Notes
    -----
    One model may be used by several threads at once, each with a state of its own.
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
        own = {name: as_parameter(value) for name, value in parameters.items()}
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
        self.encoder = Model(
            config, loaded.parameters, loaded.fingerprint, divide_weights=True, activations=activations
        )
        self._embedding = Embedding(loaded.parameters["emb.weight"], config.compute_dtype)
        self._head = Head(loaded.parameters, config.compute_dtype, config.layer_norm_eps, activations)

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
            For text.
        """
        generator = np.random.default_rng(rng)
        dtype = np.float64 if config.compute_dtype == "f64" else np.float32
        config = architecture_of(config).complete(config)
        specs = [spec for spec in architecture_of(config).parameters(config) if not spec.optional]
        return cls(config, {spec.name: spec.initialise(generator).astype(dtype) for spec in specs}, tokenizer)

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        return self.config.vocab_size

    @property
    def fingerprint(self) -> str:
        """Digest of the parameters; states carry it."""
        return self._loaded.fingerprint

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None where the file has none and none was given."""
        return self._loaded.tokenizer

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Every parameter by canonical name; read-only where it lies in a mapped file."""
        return self._loaded.parameters

    def __repr__(self) -> str:
        return f"LanguageModel({self.config})"

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
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], State]:
        """Feed one token or many, and return the logits of what comes next.

        Parameters
        ----------
        tokens : int or sequence of int
            One token, or at least one in a sequence. All at once or one by one gives the same bits.
        state : State, optional
            What earlier calls gave; None at the beginning.
        all_logits : bool, default False
            Return the logits after every token, not only after the last.
        in_place : bool, default False
            False leaves `state` unchanged and returns a new one; True updates `state` in place, which copies and
            allocates nothing of its size, and returns it. If such a call fails, `state` is invalid.
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
            If there is no token, or one is outside the vocabulary.
        StateError
            If `state` belongs to another model.
        NumericalError
            If the logits are not finite; the message says where that began.
        FormatError
            If the model file has been cut short since it was loaded.
        ConfigError
            If `num_threads` is out of its range, or the model is closed.
        """
        ids = check_token_array(tokens, self.vocab_size)
        threads = resolve_num_threads(num_threads)
        wake(threads)
        self._check_open()
        before = self.encoder.numbers(state)
        after = self.encoder.state_after(state, in_place=in_place)
        result = np.empty((len(ids) if all_logits else 1, self.vocab_size), before.dtype)
        finite, read = True, before
        try:
            for start in range(0, len(ids), CHUNK_TOKENS):
                xs = self._embedding.rows(ids[start : start + CHUNK_TOKENS])
                self.encoder.run(xs, [read], [after.data], [0, len(xs)], threads, last_only=not all_logits)
                read = after.data
                if all_logits:
                    finite &= self._logits(xs, result[start : start + len(xs)], threads)
            if not all_logits:
                finite = self._logits(xs[-1:], result, threads)
            if not finite:
                raise NumericalError(self._where_it_began(ids, before, after.data, threads))
        except BaseException:
            after.invalidate()
            raise
        return (result if all_logits else result[0]), after

    def forward_batch(
        self,
        sequences: Sequence[int | Sequence[int] | npt.NDArray[np.integer[Any]]],
        states: Sequence[State | None] | None = None,
        *,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], list[State]]:
        """Feed several sequences at once, each with a state of its own; every weight is read once for all of them.

        Parameters
        ----------
        sequences : sequence of (int or sequence of int)
            The tokens of each sequence, at least one; lengths may differ.
        states : sequence of State or None, optional
            One for each sequence; None at the beginning.
        in_place : bool, default False
            False leaves the states unchanged and returns new ones; True updates them in place. If such a call fails,
            they are invalid.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        logits : numpy.ndarray
            Shape (sequences, vocab_size): after the last token of each, the same to the last bit as from
            :meth:`forward` alone.
        states : list of State
            After the last token of each.

        Raises
        ------
        ConfigError
            If there are not as many states as sequences, one state stands for two of them in place, or `num_threads`
            is out of its range.
        TokenError, StateError, NumericalError, FormatError
            As for :meth:`forward`; the message says which sequence.
        """
        given = [None] * len(sequences) if states is None else list(states)
        if len(given) != len(sequences):
            raise ConfigError(f"forward_batch: expected {len(sequences)} states, one a sequence, got {len(given)}")
        present = [id(state) for state in given if state is not None]
        if in_place and len(set(present)) != len(present):
            raise ConfigError("forward_batch: expected a state of its own for each sequence in place, got one twice")
        checked = partial(check_token_array, vocab_size=self.vocab_size)
        ids = [self._named(i, checked, tokens) for i, tokens in enumerate(sequences)]
        threads = resolve_num_threads(num_threads)
        wake(threads)
        self._check_open()
        dtype = np.float64 if self.config.compute_dtype == "f64" else np.float32
        if not ids:
            return np.empty((0, self.vocab_size), dtype=dtype), []
        before = [self._named(i, self.encoder.numbers, state) for i, state in enumerate(given)]
        after = [self.encoder.state_after(state, in_place=in_place) for state in given]
        result = np.empty((len(ids), self.vocab_size), dtype)
        try:
            last = self._run_batch(ids, before, [state.data for state in after], threads)
            if not self._logits(last, result, threads):
                i = int(np.isfinite(result).all(axis=1).argmin())
                raise NumericalError(f"sequence {i}: {self._where_it_began(ids[i], before[i], after[i].data, threads)}")
        except BaseException:
            for state in after:
                state.invalidate()
            raise
        return result, after

    def _run_batch(
        self,
        ids: Sequence[npt.NDArray[np.int64]],
        before: Sequence[npt.NDArray[Any]],
        after: Sequence[npt.NDArray[Any]],
        num_threads: int,
    ) -> npt.NDArray[Any]:
        """Run the sequences through the layers, a share of each at a time; return the last output of each."""
        last = np.empty((len(ids), self.config.d_model), after[0].dtype)
        done = 0
        while active := [i for i in range(len(ids)) if len(ids[i]) > done]:
            share = max(1, CHUNK_TOKENS // len(active))
            parts = [ids[i][done : done + share] for i in active]
            starts = [0, *accumulate(len(part) for part in parts)]
            xs = self._embedding.rows(np.concatenate(parts))
            reads = [after[i] if done else before[i] for i in active]
            self.encoder.run(xs, reads, [after[i] for i in active], starts, num_threads, last_only=True)
            for i, end in zip(active, starts[1:], strict=True):
                last[i] = xs[end - 1]
            done += share
        return last

    @staticmethod
    def _named(sequence: int, function: Callable[[Any], _T], argument: Any) -> _T:
        """Call `function`, and name the sequence in what it refuses."""
        try:
            return function(argument)
        except (TokenError, StateError) as error:
            raise type(error)(f"sequence {sequence}: {error}") from None

    def generate(
        self,
        prompt: str | bytes | Iterable[int] = "",
        *,
        state: State | None = None,
        logits: npt.NDArray[np.float32] | None = None,
        max_tokens: int | None = 256,
        options: SamplingOptions | None = None,
        logits_processors: Sequence[LogitsProcessor] = (),
        seed: np.random.Generator | int | None = None,
        stop: str | Iterable[str] = (),
        stop_tokens: Iterable[int] | None = None,
        tokenizer: Tokenizer | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> Generation[State]:
        """Continue `prompt`, yielding pieces of text as they come.

        Parameters
        ----------
        prompt, state, logits, max_tokens, options, seed, stop, stop_tokens, tokenizer, logits_processors
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
            At once, if an argument is out of its range, there is no tokenizer, or the prompt is empty and nothing
            can follow it.
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
            **sampling,
        )

    def score(
        self,
        text: str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]],
        *,
        state: State | None = None,
        num_threads: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """Return the natural logarithm of the probability of each token, given the tokens before it.

        Parameters
        ----------
        text, state, num_threads
            As for :func:`rwkv_cy.text.score.score`.

        Returns
        -------
        numpy.ndarray
            float64, one number a token; NaN for the first token where no state is given.
        """
        return score(self, text, state=state, num_threads=num_threads)

    def load_state(self, path: str | os.PathLike[str]) -> State:
        """Read a state of this model from a file.

        Parameters
        ----------
        path : path-like
            A file that :meth:`State.save` wrote, or a state-tuned file that holds ``blocks.i.att.time_state`` alone.

        Raises
        ------
        StateError
            If the state does not fit the model.
        FormatError, StorageError
            If the file is damaged, or cannot be read.
        """
        return load_state(self, path)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model to a model file, with its tokenizer; `path` is complete afterwards, or unchanged.

        Parameters keep their types. Matrices with a sparse input and low-rank factors are stored transposed.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Replace a file of that name.

        Raises
        ------
        StorageError
            If the file exists, or the operating system refuses.
        TokenizerError
            If the tokenizer has more tokens than the model.
        """
        save_parameters(path, self._loaded, overwrite=overwrite)

    def close(self) -> None:
        """Close the model file. The parameters stay valid, but further calls of the model raise ConfigError."""
        if not self._closed:
            self._closed = True
            self._loaded.close()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_open(self) -> None:
        """Raise an error if the model is closed, or its mapped file has been truncated."""
        if self._closed:
            raise ConfigError("LanguageModel: expected an open model, got one that was closed; load it again")
        self._loaded.check()

    def _logits(self, xs: npt.NDArray[Any], result: npt.NDArray[Any], num_threads: int) -> bool:
        """Compute the logits after each token into `result`; return whether all are finite."""
        workspace = self.encoder.take_workspace()
        try:
            return self._head.logits(xs, result, workspace, num_threads)
        finally:
            self.encoder.return_workspace(workspace)

    def _where_it_began(
        self, ids: npt.NDArray[np.int64], before: npt.NDArray[Any], after: npt.NDArray[Any], num_threads: int
    ) -> str:
        """Say where a number first was not finite: in which layer, and after which token where that can be told.

        The tokens are run again one by one. After a call in place the state before them is gone, so that the state
        after them has to tell: the previous input of a time mix shows what the layer before it gave.
        """
        if before is after:
            return self._spoiled_layer(after, None) or _AFTER_THE_LAYERS
        if not np.isfinite(before).all():
            return "the state given holds numbers that are not finite; start from another state"
        read, state = before, np.empty_like(before)
        for position, token in enumerate(ids):
            x = self._embedding.rows(ids[position : position + 1])
            if not np.isfinite(x).all():
                return f"token {token} at {position}: its row of emb.weight is not finite; the model file is damaged"
            self.encoder.run(x, [read], [state], [0, 1], num_threads)
            read = state
            found = self._spoiled_layer(state, x)
            if found is not None:
                return f"token {token} at {position}: {found}"
        return _AFTER_THE_LAYERS

    def _spoiled_layer(self, state: npt.NDArray[Any], x: npt.NDArray[Any] | None) -> str | None:
        """Say which layer first gave NaN or infinity, as its state shows, or `x`, the output of the last one."""
        for index, row in enumerate(state):
            if np.isfinite(row).all():
                continue
            if np.isfinite(LayerState(self.encoder.state_fields, row)["att_xx"]).all():
                return f"expected finite numbers, layer {index} gave NaN or infinity; verify the model file"
            where = f"layer {index - 1}" if index else "emb.weight or the LayerNorms of layer 0"
            return f"expected finite numbers, {where} gave NaN or infinity; verify the model file"
        if x is not None and not np.isfinite(x).all():
            return f"expected finite numbers, layer {len(state) - 1} gave NaN or infinity; verify the model file"
        return None


_AFTER_THE_LAYERS = "expected finite logits, ln_out or head gave NaN or infinity; verify the model file"


def load(
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    mmap: bool = True,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    rescale_layer: int | None = None,
    activations: str = "f32",
) -> LanguageModel:
    """Load a model: one of our files, or a foreign checkpoint directly.

    Parameters
    ----------
    path : path-like
        A model file, a checkpoint (.pth, .safetensors, rwkv.cpp .bin), or a Hugging Face folder; recognised by
        content.
    dtype : {"f32", "f16", "bf16", "f64", "bf12", "q8", "q6", "q4"}, optional
        Convert matrices, head and embedding to this type in memory, as :func:`rwkv_cy.convert` does: beside quantized
        matrices the embedding is f16 or bf16. Low-rank factors and vectors keep their type. None uses all as they are
        stored. ``"f64"`` computes in float64 throughout; ``"bf12"`` gives what ``"bf16"`` does, to the last bit, in
        less memory.
    mmap : bool, default True
        Use the matrices in place, through a memory map of the file: loading takes milliseconds, and processes share
        the pages. Matrices that are converted, and all of them on a file system that cannot map, are read into memory.
        False reads everything into memory of the process, with several threads and in pages of 2 MiB where the system
        has them. The file may then be truncated, removed or unplugged; under a map it must stay whole.
    tokenizer : str, path-like or Tokenizer, optional
        Instead of the file's own: ``"bytes"``, ``"world"``, or a vocabulary file.
    rescale_layer : int, optional
        Halve the residual stream after every so many layers. Not needed in float32; None does as the file says.
    activations : {"f32", "bf16"}, default "f32"
        ``"bf16"`` rounds activations to bf16, nearest even, before they are multiplied with a matrix in bf16: CPUs
        with AVX512-BF16 then run prompts about 1.7 times as fast, others as before. Matrices in other types, sums,
        state and everything else stay as they are.

    Returns
    -------
    LanguageModel

    Raises
    ------
    StorageError
        If the operating system refuses the file.
    FormatError
        If it is damaged or of no supported format; UnsupportedError and SpecError say more.
    NotEnoughMemoryError
        If the numbers have to be read into memory and there is too little of it.
    ConfigError
        If `dtype` or `activations` is none of these, or `dtype` would quantize what is quantized already.
    """
    check_activations(activations)  # before anything is read
    return LanguageModel._of(
        load_parameters(path, dtype=dtype, mmap=mmap, tokenizer=tokenizer, rescale_layer=rescale_layer), activations
    )
