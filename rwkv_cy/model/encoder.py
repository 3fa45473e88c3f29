"""Model: the headless encoder, a stack of layers that maps vectors to vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import array_dtype, check_activations
from rwkv_cy.errors import ConfigError, StateError
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.kernels.stack import Stack
from rwkv_cy.model.layer import Layer, activations
from rwkv_cy.model.not_pickled import NotPickled
from rwkv_cy.model.state import State
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter, as_parameter
from rwkv_cy.text.tokens import check_token_array

if TYPE_CHECKING:
    from rwkv_cy.model.gradients import LoRA
    from rwkv_cy.model.tape import EncoderGradient, Tape

__all__ = ["CHUNK_TOKENS", "Model"]

#: Tokens that run through the layers together: enough to reuse each weight, few enough to bound memory.
CHUNK_TOKENS = 512


class Model(NotPickled):
    """The headless encoder of upstream: layers over vectors of width `d_model`, without a vocabulary.

    Parameters
    ----------
    config : Config
        Dimensions and arithmetic.
    parameters : mapping of str to Parameter or numpy.ndarray
        By canonical name, ``"blocks.0.att.key.weight"``; those of other parts of a model are ignored.
        Arrays of a suitable type and layout are used without a copy, and must not be modified later.
    fingerprint : str, default ""
        Stored in every state, so that states of other models are refused.
    divide_weights : bool, default False
        With `config.rescale_layer` n > 0, also divide the output and value matrices of layer i by
        2^(i // n), as the halved residual stream requires. False, as upstream, expects parameters that are
        already divided.
    activations : {"f32", "bf16"}, default "f32"
        Precision of the activations that bf16 matrices are multiplied with, as for :func:`rwkv_cy.load`.

    Raises
    ------
    ConfigError
        If `activations` has another value.
    SpecError
        If parameters are missing or of the wrong shape.

    Notes
    -----
    A port of nlpodyssey/rwkv (Go), `rwkv.go`, with the same names. Several threads may use one model at once,
    each with its own state.
    """

    def __init__(
        self,
        config: Config,
        parameters: Mapping[str, Parameter | npt.NDArray[Any]],
        fingerprint: str = "",
        *,
        divide_weights: bool = False,
        activations: str = "f32",
    ) -> None:
        architecture = architecture_of(config)
        check_activations(activations)
        config = architecture.complete(config)
        self.config = config
        self.fingerprint = fingerprint
        self.layers = tuple(
            Layer(config, i, own, divide_weights=divide_weights, activations=activations)
            for i, own in enumerate(_by_layer(parameters, config.num_layers))
        )
        self._kernel = Stack([layer.kernel for layer in self.layers])
        self.state_fields = architecture.state_fields(config)
        tuned = {
            name: as_parameter(parameters[name], name)
            for i in range(config.num_layers)
            for spec in architecture.parameters_of_layer(config, i)
            if spec.kind == "state" and (name := f"blocks.{i}.{spec.name}") in parameters
        }
        self._initial = architecture.initial_state(config, tuned)
        self._initial.flags.writeable = False
        self._workspaces: list[Workspace] = []
        #: Memory for the activations of recorded passes.
        self.saved: list[Workspace] = []
        self._gradient: EncoderGradient | None = None

    @classmethod
    def new(cls, config: Config, rng: np.random.Generator | int) -> Model:
        """Return a model with initial values, as the RWKV authors initialise before training.

        Parameters
        ----------
        config : Config
            Dimensions; `vocab_size` is ignored.
        rng : numpy.random.Generator or int
            Source of randomness, or a seed for one.
        """
        generator = np.random.default_rng(rng)
        architecture = architecture_of(config)
        config = architecture.complete(config)
        dtype = array_dtype(config.compute_dtype)
        return cls(
            config,
            {
                f"blocks.{i}.{spec.name}": spec.initialise(generator).astype(dtype)
                for i in range(config.num_layers)
                for spec in architecture.parameters_of_layer(config, i)
            },
        )

    def __repr__(self) -> str:
        return f"Model({self.config})"

    def initial_state(self) -> State:
        """Return the state before the first vector."""
        return self._state(self._initial.copy())

    def forward_single(
        self,
        x: npt.ArrayLike,
        state: State | None = None,
        *,
        token: int | None = None,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], State]:
        """Run one vector through all layers.

        Parameters
        ----------
        x : array_like
            Shape (d_model,).
        state : State, optional
            The result of an earlier call; None starts from the initial state.
        token : int, optional
            The token that the vector stands for, in versions that look it up in tables.
        in_place : bool, default False
            False leaves `state` unchanged and returns a new one. True updates `state` in place, without copies or
            allocations, and returns it.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Returns
        -------
        y : numpy.ndarray
            Shape (d_model,), float32 or float64 like the model.
        state : State
            After this vector.

        Raises
        ------
        ConfigError
            If `x` has another shape, or the version needs a token.
        TokenError
            If the token is outside the vocabulary.
        StateError
            If `state` belongs to another model.
        """
        row = activations(x, self.config, 1, "forward_single")
        tokens = None if token is None else [token]
        ys, state = self.forward_sequence(
            row[np.newaxis], state, tokens=tokens, in_place=in_place, num_threads=num_threads
        )
        return ys[0], state

    def forward_sequence(
        self,
        xs: npt.ArrayLike,
        state: State | None = None,
        *,
        tokens: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        in_place: bool = False,
        num_threads: int | None = None,
    ) -> tuple[npt.NDArray[Any], State]:
        """Run a sequence of vectors through all layers, with the same bits as one at a time.

        Parameters
        ----------
        xs : array_like
            Shape (time, d_model); time may be 0.
        tokens : sequence of int, optional
            The token that each vector stands for, in versions that look them up in tables.
        state, in_place, num_threads
            As for :meth:`forward_single`. If an in-place call fails, `state` becomes invalid and cannot be used.

        Returns
        -------
        ys : numpy.ndarray
            Shape (time, d_model).
        state : State
            After the last vector.

        Raises
        ------
        ConfigError
            If `xs` has another shape, or the version needs a token for each vector.
        TokenError
            If a token is outside the vocabulary.
        StateError
            If `state` belongs to another model.
        """
        ys = activations(xs, self.config, 2, "forward_sequence")
        if np.may_share_memory(ys, xs):
            ys = ys.copy()
        ids = self.ids(tokens, len(ys))
        before = self.numbers(state)
        after = self.state_after(state, in_place=in_place)
        threads = resolve_num_threads(num_threads)
        try:
            for start in range(0, len(ys), CHUNK_TOKENS):
                chunk = ys[start : start + CHUNK_TOKENS]
                own = None if ids is None else ids[start : start + CHUNK_TOKENS]
                self.run(chunk, [before], [after.data], [0, len(chunk)], threads, ids=own)
                before = after.data
        except BaseException:
            after.invalidate()
            raise
        if not len(ys) and after is not state:
            after.data[...] = before
        return ys, after

    def record(
        self,
        xs: npt.ArrayLike | Sequence[npt.ArrayLike],
        state: State | Sequence[State | None] | None = None,
        *,
        tokens: Any = None,
        trainable: str | Iterable[str] | None = None,
        adapters: Mapping[str, LoRA] | None = None,
        memory: int | None = None,
        num_threads: int | None = None,
    ) -> tuple[Any, Any, Tape]:
        """Run a sequence of vectors, or several sequences, and record what :meth:`Tape.backward` needs.

        Parameters
        ----------
        xs : array_like, or list of array_like
            Shape (time, d_model), at least one vector; a list of several such sequences, whose lengths may differ.
        state : State, optional
            As for :meth:`forward_sequence`, but left unchanged; a sequence of them for several sequences.
        tokens : sequence of int, optional
            As for :meth:`forward_sequence`; a sequence of them for several sequences.
        trainable, adapters, memory, num_threads
            As for :meth:`rwkv_cy.LanguageModel.record`.

        Returns
        -------
        ys : numpy.ndarray, or list of numpy.ndarray
            Shape (time, d_model). Quantized matrices are multiplied with activations that are not quantized.
        state : State, or list of State
            After the last vector.
        tape : Tape

        Raises
        ------
        ConfigError
            If an array has another shape, a pattern does not match any parameter, or the version needs a token for each
            vector.
        StateError
            If `state` belongs to another model.
        UnsupportedError
            If the version does not have a backward pass.
        """
        from rwkv_cy.model import tape

        gradient = self._gradient
        if gradient is None or gradient.adapters is not adapters:
            gradient = self._gradient = tape.EncoderGradient(self, adapters)
        return tape.record(gradient, xs, state, tokens, trainable, memory, num_threads)

    def numbers(self, state: State | None) -> npt.NDArray[Any]:
        """Return the array of a state, for reading only; None stands for the initial state.

        Raises
        ------
        StateError
            If `state` belongs to another model, or a failed call left it partly updated.
        """
        if state is None:
            return self._initial
        self._check_state(state)
        return state.data

    def state_after(self, state: State | None, *, in_place: bool, out: State | None = None) -> State:
        """Return the state that a call writes to: `out`, a new uninitialized one, or `state` itself.

        Raises
        ------
        ConfigError
            If both `in_place` and `out` are given.
        StateError
            If `out` belongs to another model.
        """
        if out is not None:
            if in_place:
                raise ConfigError("out: expected one of in_place and out, got both; leave one out")
            self._check_fits(out, "out")
            return out
        if in_place and state is not None:
            return state
        return self._state(np.empty_like(self._initial))

    def run(
        self,
        xs: npt.NDArray[Any],
        reads: Sequence[npt.NDArray[Any]],
        writes: Sequence[npt.NDArray[Any]],
        starts: Sequence[int],
        num_threads: int,
        *,
        last_only: bool = False,
        ids: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Run the tokens of one sequence or several through all layers, in place.

        Parameters
        ----------
        xs : numpy.ndarray
            Shape (tokens, d_model): the concatenated sequences; replaced by the outputs.
        reads, writes : sequence of numpy.ndarray
            The state of each sequence before and after, shape (num_layers, elements of a layer's state); both may be
            the same array. One to write to may have a further dimension in front, (tokens, num_layers, elements): it
            receives the state after each token, and the one to read may be one of these; not with `last_only`.
        starts : sequence of int
            The first row of each sequence in `xs`, then the number of rows. Every sequence has at least one.
        num_threads : int
            Threads to use.
        last_only : bool, default False
            Compute only the last row of each sequence; the other rows are undefined.
        ids : numpy.ndarray, optional
            The tokens, int64: needed by versions that look them up in tables.
        """
        bounds = np.array(starts, np.intp)
        workspace = self.take_workspace()
        try:
            self._kernel.forward(xs, reads, writes, bounds, workspace, num_threads, last_only, ids)
        finally:
            self.return_workspace(workspace)

    def ids(
        self, tokens: Sequence[int] | npt.NDArray[np.integer[Any]] | None, count: int
    ) -> npt.NDArray[np.int64] | None:
        """Return the tokens of so many vectors, checked; None in a version that does not look them up."""
        rows = self._kernel.vocab_size
        if rows == 0 or count == 0:
            return None
        if tokens is None or len(tokens) != count:
            found = "none" if tokens is None else len(tokens)
            raise ConfigError(
                f"tokens: expected one for each of the {count} vectors, since {self.config.architecture} looks them up "
                f"in tables, got {found}"
            )
        return check_token_array(tokens, rows)

    def _state(self, data: npt.NDArray[Any]) -> State:
        return State(self.config.architecture, self.state_fields, data, self.fingerprint)

    def take_workspace(self) -> Workspace:
        """Return scratch memory for exclusive use, until :meth:`return_workspace`."""
        # list.pop is atomic, so that no two threads get the same workspace.
        try:
            return self._workspaces.pop()
        except IndexError:
            return Workspace()

    def return_workspace(self, workspace: Workspace) -> None:
        """Return a workspace from :meth:`take_workspace`, for reuse by later calls."""
        self._workspaces.append(workspace)

    def use_memory_of(self, other: Model) -> None:
        """Use the scratch memory of another model of the same dimensions, which is not used any more.

        New pages would have to be cleared by the system first.
        """
        self._workspaces, self.saved = other._workspaces, other.saved

    def _check_state(self, state: State) -> None:
        self._check_fits(state, "state")
        state.check_valid()

    def _check_fits(self, state: State, what: str) -> None:
        if not isinstance(state, State):
            raise StateError(f"{what}: expected a State or None, got {type(state).__name__}")
        config = self.config
        dtype = self._initial.dtype
        if (
            state.architecture != config.architecture
            or state.fields != self.state_fields
            or state.num_layers != config.num_layers
            or state.data.dtype != dtype
            or not state.data.flags.c_contiguous
            or not state.data.flags.writeable
        ):
            raise StateError(
                f"{what}: expected one of a {config.architecture} model with {config.num_layers} layers of width "
                f"{config.d_model} in {dtype}, got {state!r}; start from None"
            )
        if state.fingerprint and self.fingerprint and state.fingerprint != self.fingerprint:
            raise StateError(
                f"{what}: expected one of this model (fingerprint {self.fingerprint[:12]}), got one of another model "
                f"({state.fingerprint[:12]}); start from None, or load the model that made it"
            )


def _by_layer(
    parameters: Mapping[str, Parameter | npt.NDArray[Any]], num_layers: int
) -> list[dict[str, Parameter | npt.NDArray[Any]]]:
    """Group the parameters by layer, with the prefix ``blocks.i.`` removed from their names."""
    layers: list[dict[str, Parameter | npt.NDArray[Any]]] = [{} for _ in range(num_layers)]
    for name, value in parameters.items():
        block, _, rest = name.partition(".")
        index, _, short = rest.partition(".")
        if block == "blocks" and index.isdecimal() and int(index) < num_layers:
            layers[int(index)][short] = value
    return layers
