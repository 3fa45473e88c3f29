"""Tape: a recorded pass through the layers, from which gradients are computed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.errors import ConfigError, StateError
from rwkv_cy.kernels.gradient import LayerGradient, StackGradient
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.gradients import Gradients, LoRA, buffers, choose, kept_bytes
from rwkv_cy.model.layer import activations
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass
from rwkv_cy.runtime import resolve_num_threads

__all__ = ["EncoderGradient", "Recording", "Tape", "record"]

Array = npt.NDArray[Any]

#: Most tokens of a segment: enough for products near the peak of the arithmetic.
SEGMENT_TOKENS = 1024
#: Least tokens of a segment, whatever they take.
LEAST_TOKENS = 16


class EncoderGradient:
    """The layers of a model for recorded passes.

    Parameters
    ----------
    encoder : Model
    adapters : mapping of str to LoRA, optional
        By the canonical name of the matrix.

    Raises
    ------
    UnsupportedError
        If the version does not have a backward pass.
    """

    def __init__(self, encoder: Model, adapters: Mapping[str, LoRA] | None = None) -> None:
        config = encoder.config
        architecture = architecture_of(config)
        self.encoder = encoder
        self.adapters = adapters
        mixes = [
            architecture.gradients(config, i, layer.kernel.time_mix, layer.kernel.channel_mix)
            for i, layer in enumerate(encoder.layers)
        ]
        factors = {}
        if not isinstance(adapters, Mapping | None):
            raise ConfigError(f"adapters: expected a mapping of names to LoRA, got {type(adapters).__name__}")
        for name, lora in (adapters or {}).items():
            factors.update(_adapt(mixes, name, lora))
        layers = [LayerGradient(layer.kernel, *own) for layer, own in zip(encoder.layers, mixes, strict=True)]
        self.stack = StackGradient(layers)
        self._names = self.stack.names
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.states: list[str] = []
        for i, names in enumerate(self._names):
            for spec in architecture.parameters_of_layer(config, i):
                if spec.kind == "state":
                    self.states.append(f"blocks.{i}.{spec.name}")
                if spec.kind == "state" or spec.name in names:
                    self.shapes[f"blocks.{i}.{spec.name}"] = spec.shape
        quantized = {f"blocks.{i}.{name}" for i, layer in enumerate(layers) for name in layer.quantized}
        self.shapes.update(factors)
        self.default = list(factors) or [
            name for name in self.shapes if name not in quantized and name not in self.states
        ]

    def segment_tokens(self, memory: int) -> int:
        """Return the most tokens of a segment: their activations must fit into the memory."""
        sample = 256
        one = self.stack.saved(np.array([0, sample], np.intp)) // sample
        return int(min(SEGMENT_TOKENS, max(LEAST_TOKENS, memory // one)))

    def take_saved(self) -> Workspace:
        """Return memory for the activations of a segment, until :meth:`return_saved`."""
        try:
            return self.encoder.saved.pop()
        except IndexError:
            return Workspace()

    def return_saved(self, saved: Workspace) -> None:
        """Return such memory, for reuse by later segments and passes: new pages would have to be cleared first."""
        self.encoder.saved.append(saved)

    def buffers_of_layers(self, parameters: Mapping[str, Array]) -> list[list[Array | None]]:
        """Return the gradients of each layer in the order of its names; None for a frozen parameter."""
        return [[parameters.get(f"blocks.{i}.{name}") for name in names] for i, names in enumerate(self._names)]


def _adapt(mixes: Sequence[Sequence[Any]], name: str, lora: LoRA) -> dict[str, tuple[int, ...]]:
    """Attach an adapter to the matrix of that name; return the shapes of its factors by canonical name."""
    if not isinstance(name, str) or not isinstance(lora, LoRA):
        raise ConfigError(f"adapters: expected LoRA by name of a matrix, got {type(lora).__name__} by {name!r}")
    block, _, rest = name.partition(".")
    index, _, short = rest.partition(".")
    if block == "blocks" and index.isdecimal() and int(index) < len(mixes):
        for mix in mixes[int(index)]:
            if short in mix.names:
                names = mix.adapt(short, lora.a, lora.b, lora.scale)
                return {f"blocks.{index}.{own}": x.shape for own, x in zip(names, (lora.a, lora.b), strict=True)}
    raise ConfigError(f"adapters: expected names of matrices such as blocks.0.att.key.weight, got {name!r}")


@dataclass
class _Segment:
    """Tokens of some sequences that run together."""

    active: list[int]
    starts: npt.NDArray[np.intp]
    begins: int  # the first token within each of the sequences
    reads: list[Array]
    kept: bool
    saved: Workspace | None = None


class Recording:
    """A pass of sequences through the layers, in segments; the states between segments are kept.

    Parameters
    ----------
    gradient : EncoderGradient
    lengths : sequence of int
        Tokens of each sequence.
    inputs : callable
        Given a sequence, a first token and an end: their vectors, shape (tokens, d_model), in a new array.
    before : sequence of numpy.ndarray
        The state of each sequence; must not be modified later.
    ids : sequence of numpy.ndarray or None
        The tokens of each sequence, for versions that look them up in tables.
    num_threads : int
    memory : int
        Bytes of activations to keep until the backward pass, which begins with the last segment. Those of the others
        are computed again, in memory that is then free.
    """

    def __init__(
        self,
        gradient: EncoderGradient,
        lengths: Sequence[int],
        inputs: Callable[[int, int, int], Array],
        before: Sequence[Array],
        ids: Sequence[npt.NDArray[np.int64] | None],
        num_threads: int,
        memory: int,
    ) -> None:
        self._gradient = gradient
        self._inputs, self._ids = inputs, ids
        self.lengths = list(lengths)
        dtype, width = before[0].dtype, gradient.encoder.config.d_model
        self.outputs = [np.empty((length, width), dtype) for length in lengths]
        self.after = list(before)
        self._segments = _segments(lengths, gradient.segment_tokens(memory))
        left = memory
        for segment in reversed(self._segments):
            left -= gradient.stack.saved(segment.starts)
            segment.kept = left >= 0 or segment is self._segments[-1]
        for segment in self._segments:
            segment.reads = [self.after[i] for i in segment.active]
            writes = [np.empty_like(read) for read in segment.reads]
            if segment.kept:
                segment.saved = gradient.take_saved()
            xs = self._run(segment, writes, segment.saved, num_threads)
            for (i, begin, end), write in zip(_spans(segment), writes, strict=True):
                self.outputs[i][segment.begins : segment.begins + end - begin] = xs[begin:end]
                self.after[i] = write

    def __del__(self) -> None:
        for segment in self.__dict__.get("_segments", ()):
            if segment.saved is not None:
                self._gradient.return_saved(segment.saved)

    def _run(self, segment: _Segment, writes: list[Array], saved: Workspace | None, num_threads: int) -> Array:
        parts = [self._inputs(i, segment.begins, segment.begins + end - begin) for i, begin, end in _spans(segment)]
        xs = parts[0] if len(parts) == 1 else np.concatenate(parts)
        encoder = self._gradient.encoder
        workspace = encoder.take_workspace()
        try:
            self._gradient.stack.record(
                xs, segment.reads, writes, segment.starts, workspace, num_threads, saved, self._ids_of(segment)
            )
        finally:
            encoder.return_workspace(workspace)
        return xs

    def _ids_of(self, segment: _Segment) -> npt.NDArray[np.int64] | None:
        parts = [
            ids[segment.begins : segment.begins + end - begin]
            for i, begin, end in _spans(segment)
            if (ids := self._ids[i]) is not None
        ]
        return np.concatenate(parts) if parts else None

    def backward(
        self, d_outputs: Sequence[Array], d_states: Sequence[Array], parameters: Mapping[str, Array], num_threads: int
    ) -> list[Array]:
        """Return the gradient of the inputs of each sequence.

        Parameters
        ----------
        d_outputs : sequence of numpy.ndarray
            Gradient of the outputs of each sequence, shape (tokens, d_model).
        d_states : sequence of numpy.ndarray
            Gradient of the state after each sequence; replaced by that of the state before it.
        parameters : mapping of str to numpy.ndarray
            Arrays that the gradients of trainable parameters are added to.
        num_threads : int
        """
        d_inputs = [np.empty_like(array) for array in d_outputs]
        of_layers = self._gradient.buffers_of_layers(parameters)
        encoder = self._gradient.encoder
        for segment in reversed(self._segments):
            saved, segment.saved = segment.saved, None
            if saved is None:
                saved = self._gradient.take_saved()
                self._run(segment, [np.empty_like(read) for read in segment.reads], saved, num_threads)
            spans = _spans(segment)
            own = [d_outputs[i][segment.begins : segment.begins + end - begin] for i, begin, end in spans]
            dx = np.concatenate(own)
            workspace = encoder.take_workspace()
            try:
                self._gradient.stack.backward(
                    dx,
                    segment.reads,
                    [d_states[i] for i in segment.active],
                    segment.starts,
                    workspace,
                    num_threads,
                    saved,
                    of_layers,
                    self._ids_of(segment),
                )
            finally:
                encoder.return_workspace(workspace)
                self._gradient.return_saved(saved)
            for i, begin, end in spans:
                d_inputs[i][segment.begins : segment.begins + end - begin] = dx[begin:end]
        return d_inputs


def _spans(segment: _Segment) -> list[tuple[int, int, int]]:
    """Return each sequence of a segment, and its rows in it: the first, and the end."""
    starts = segment.starts.tolist()
    return list(zip(segment.active, starts[:-1], starts[1:], strict=True))


def _segments(lengths: Sequence[int], most: int) -> list[_Segment]:
    """Split sequences into segments of at most so many tokens, all whole but the first ones."""
    segments: list[_Segment] = []
    end = max(lengths)
    while end > 0:
        # The first start, from 0 on, from which no more than `most` tokens remain before `end`.
        begin = bisect_left(
            range(end - 1), True, key=lambda start: sum(max(0, min(n, end) - start) for n in lengths) <= most
        )
        active = [i for i, length in enumerate(lengths) if length > begin]
        starts = np.array([0, *accumulate(min(lengths[i], end) - begin for i in active)], np.intp)
        segments.append(_Segment(active, starts, begin, [], kept=False))
        end = begin
    return segments[::-1]


class Tape:
    """A recorded pass of vectors through a model: :meth:`Model.record` makes it.

    It keeps the states between segments, and activations up to a number of bytes; the others are computed again. It can
    be used more than once.
    """

    def __init__(
        self,
        gradient: EncoderGradient,
        recording: Recording,
        trainable: frozenset[str],
        fresh: Sequence[bool],
        *,
        batch: bool,
    ) -> None:
        self._gradient = gradient
        self._recording = recording
        self._fresh = list(fresh)
        self._batch = batch
        self.trainable = trainable

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the gradients of the trainable parameters, by canonical name."""
        return {name: shape for name, shape in self._gradient.shapes.items() if name in self.trainable}

    def activation_bytes(self, tokens: int) -> int:
        """Return the bytes of the activations of so many tokens: what a tape that keeps all of them takes."""
        return int(self._gradient.stack.saved(np.array([0, tokens], np.intp)))

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
            Gradient of the outputs, shape (time, d_model); a sequence of them after a batch.
        d_state : State, optional
            Gradient of the state after the last vector, in the layout of a state; None stands for zeros. A sequence of
            them after a batch.
        parameters : mapping of str to numpy.ndarray, optional
            Arrays that the gradients of the parameters are added to, such as :attr:`Gradients.parameters` of another
            tape with the same trainable parameters; None begins with zeros.
        num_threads : int, optional
            Threads to use; the result is the same for every number.

        Raises
        ------
        ConfigError
            If an array has another shape or type.
        StateError
            If `d_state` is not of this model's layout.
        """
        encoder = self._gradient.encoder
        given = list(d_ys) if self._batch else [d_ys]
        lengths = self._recording.lengths
        if len(given) != len(lengths):
            raise ConfigError(f"d_ys: expected {len(lengths)} arrays, one for each sequence, got {len(given)}")
        d_outputs = [activations(d, encoder.config, 2, "d_ys") for d in given]
        for i, (d, length) in enumerate(zip(d_outputs, lengths, strict=True)):
            if len(d) != length:
                raise ConfigError(f"d_ys: expected {length} rows for sequence {i}, got {len(d)}")
        states = self.state_gradients(d_state)
        own = buffers(self.shapes, states[0].dtype, parameters)
        d_inputs = self._recording.backward(d_outputs, states, own, resolve_num_threads(num_threads))
        self.add_initial_state(states, own)
        return self.gradients(own, d_inputs, states)

    def state_gradients(self, d_state: State | Sequence[State | None] | None) -> list[Array]:
        """Return the gradient of each sequence's last state, in arrays of their own."""
        count = len(self._recording.lengths)
        given = list(d_state) if self._batch and d_state is not None else [d_state] * count  # type: ignore[arg-type]
        if len(given) != count:
            raise ConfigError(f"d_state: expected {count} states, one for each sequence, got {len(given)}")
        result = []
        for d, like in zip(given, self._recording.after, strict=True):
            if d is None:
                result.append(np.zeros_like(like))
            elif isinstance(d, State) and d.data.shape == like.shape:
                result.append(d.data.astype(like.dtype))
            else:
                raise StateError(f"d_state: expected a State of shape {like.shape} or None, got {d!r}")
        return result

    def add_initial_state(self, d_states: Sequence[Array], parameters: dict[str, Array]) -> None:
        """Add the gradients of states before the first token to those of the parameters that they come from."""
        config = self._gradient.encoder.config
        for d, fresh in zip(d_states, self._fresh, strict=True):
            if fresh and any(name in parameters for name in self._gradient.states):
                for name, array in architecture_of(config).initial_state_gradient(config, d).items():
                    if name in parameters:
                        parameters[name] += array

    def gradients(self, parameters: dict[str, Array], d_inputs: list[Array], d_states: list[Array]) -> Gradients:
        """Return gradients as the caller of `record` gets them: lists after a batch."""
        encoder = self._gradient.encoder
        states = [State(encoder.config.architecture, encoder.state_fields, d, encoder.fingerprint) for d in d_states]
        if self._batch:
            return Gradients(parameters, d_inputs, states)
        return Gradients(parameters, d_inputs[0], states[0])


def record(
    gradient: EncoderGradient,
    xs: Any,
    state: State | Sequence[State | None] | None,
    tokens: Any,
    trainable: str | Iterable[str] | None,
    memory: int | None,
    num_threads: int | None,
) -> tuple[Any, Any, Tape]:
    """Run one sequence of vectors or several, and record the pass: :meth:`Model.record`."""
    encoder = gradient.encoder
    batch = isinstance(xs, (list, tuple)) and len(xs) > 0 and np.ndim(xs[0]) == 2
    sequences = [activations(x, encoder.config, 2, "record") for x in (xs if batch else [xs])]
    if not all(len(x) for x in sequences):
        raise ConfigError("record: expected at least one vector in each sequence, got none")
    given = [None] * len(sequences) if tokens is None else list(tokens) if batch else [tokens]
    if len(given) != len(sequences):
        raise ConfigError(f"tokens: expected {len(sequences)} sequences of them, got {len(given)}")
    ids = [encoder.ids(own, len(x)) for own, x in zip(given, sequences, strict=True)]
    chosen = choose(gradient.shapes, gradient.default, trainable)
    states, before = states_before(encoder, state, len(sequences), batch)
    recording = Recording(
        gradient,
        [len(x) for x in sequences],
        lambda i, start, end: sequences[i][start:end].copy(),
        before,
        ids,
        resolve_num_threads(num_threads),
        kept_bytes(memory),
    )
    tape = Tape(gradient, recording, chosen, [own is None for own in states], batch=batch)
    after = [state_of(encoder, data) for data in recording.after]
    outputs = [y.copy() for y in recording.outputs]
    return (outputs, after, tape) if batch else (outputs[0], after[0], tape)


def state_of(encoder: Model, data: Array) -> State:
    """Return a copy of the numbers as a State."""
    return State(encoder.config.architecture, encoder.state_fields, data.copy(), encoder.fingerprint)


def states_before(
    encoder: Model, state: State | Sequence[State | None] | None, count: int, batch: bool
) -> tuple[list[State | None], list[Array]]:
    """Return the given state of each sequence, and copies of their numbers."""
    given: list[State | None]
    if batch:
        given = [None] * count if state is None else list(state)  # type: ignore[arg-type]
        if len(given) != count:
            raise ConfigError(f"state: expected {count} states, one for each sequence, got {len(given)}")
    else:
        given = [state]  # type: ignore[list-item]
    return given, [encoder.numbers(one) if one is None else encoder.numbers(one).copy() for one in given]
