"""What every version of RWKV is made of: a signature, dimensions, a parameter table, a state layout, two mixes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from rwkv_cy.architectures.curves import Curve
from rwkv_cy.config import Config
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import Parameter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Architecture", "Initialiser", "Kind", "ParameterSpec", "Shapes", "StateField"]

#: Names of a file's tensors and their shapes: all that detection looks at.
Shapes = Mapping[str, tuple[int, ...]]
Initialiser: TypeAlias = "Callable[[np.random.Generator], npt.NDArray[np.float64]]"
Kind = Literal["matrix", "low_rank", "vector", "embedding", "table", "head", "state"]


@dataclass(frozen=True)
class StateField:
    """One array of a layer's state.

    Attributes
    ----------
    name : str
        Name, and attribute of :class:`rwkv_cy.LayerState`: ``"att_aa"``.
    shape : tuple of int
        Its shape.
    initial : float
        The value of every element before the first token.
    """

    name: str
    shape: tuple[int, ...]
    initial: float

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter that an architecture has.

    Attributes
    ----------
    name : str
        Canonical name, as in the original checkpoints.
    shape : tuple of int
        Its shape there.
    kind : {"matrix", "low_rank", "vector", "embedding", "table", "head", "state"}
        ``"matrix"`` and ``"head"`` are stored in the chosen precision, which may be quantized; ``"embedding"`` too, but
        not quantized, since it is read row by row. ``"table"`` (a row for each token that a layer looks up, larger than
        all matrices together), ``"low_rank"`` factors, ``"vector"`` and ``"state"`` (the initial state of a tuned
        model) keep the checkpoint's type.
    initialise : callable
        Gives the initial value from a random generator: float64, of that shape.
    optional : bool, default False
        A checkpoint may leave it out.
    orientation : {"out_in", "in_out"}, default "out_in"
        Which axis of a two-dimensional parameter is the output.
    sparse_input : bool, default False
        The inputs of the matrix are mostly zeros.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    initialise: Initialiser
    optional: bool = False
    orientation: Literal["out_in", "in_out"] = "out_in"
    sparse_input: bool = False

    def of_layer(self, layer: int, initialise: Initialiser | None = None) -> ParameterSpec:
        """Return the parameter under its name in the model, the layer's in front; or with other initial values."""
        # Files have thousands: dataclasses.replace takes three times as long.
        return ParameterSpec(
            f"blocks.{layer}.{self.name}",
            self.shape,
            self.kind,
            initialise or self.initialise,
            self.optional,
            self.orientation,
            self.sparse_input,
        )

    @property
    def quantizable(self) -> bool:
        """Whether it may be stored in blocks of few bits."""
        return self.kind in ("matrix", "head")

    @property
    def converted(self) -> bool:
        """Whether it is stored in the chosen precision, rather than as the checkpoint has it."""
        return self.kind in ("matrix", "head", "embedding")

    @property
    def used_in_place(self) -> bool:
        """Whether kernels read it where it is stored, so that it may stay in a mapped file."""
        return self.converted or self.kind in ("low_rank", "table")

    @property
    def stored_transposed(self) -> bool:
        """Whether model files store the array transposed.

        Transposed, a matrix with a sparse input is read only where its input is not zero, and a low-rank factor that
        checkpoints hold as (in, out) is read row by row.
        """
        return self.sparse_input or self.orientation == "in_out"


class Architecture(ABC):
    """One version of RWKV. Subclasses are the rows of the registry.

    Attributes
    ----------
    name : str
        Key in the registry, and in model files.
    label : str
        Name for people.
    """

    name: str
    label: str
    #: Field of the state that keeps the previous input of the time mix: it shows what the layer before gave.
    previous_input: str = "att_xx"
    #: Arrays of a layer's state in the order of the authors' ``rwkv`` package, each with the order of its axes there;
    #: empty for a version that lists them as `state_fields` does.
    package_state: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    #: The vectors of a layer that a report draws by layer and channel, in the order of the formula.
    curves: tuple[Curve, ...] = ()

    @abstractmethod
    def matches(self, shapes: Shapes) -> bool:
        """Tell whether tensors of these names and shapes are of this version or of a relative of it."""

    @abstractmethod
    def config(self, shapes: Shapes, where: str) -> Config:
        """Read the dimensions off the shapes; `where` says where they come from, for errors.

        Raises
        ------
        SpecError
            If a tensor that gives a dimension is missing or of the wrong shape.
        """

    def complete(self, config: Config) -> Config:
        """Return `config` with the dimensions that it leaves open filled in.

        Raises
        ------
        ConfigError
            If its dimensions contradict each other.
        """
        return config

    @abstractmethod
    def layer_parameters(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters of one layer, names without the ``blocks.i.`` in front."""

    def parameters_of_layer(self, config: Config, layer: int) -> tuple[ParameterSpec, ...]:
        """Return the parameters that a layer of this model has: all of its version, or those without ln0."""
        specs = self.layer_parameters(config, layer)
        return tuple(spec for spec in specs if config.embedding_norm or not spec.name.startswith("ln0."))

    def alike(self, layer: int) -> int:
        """Return the first layer that has the same parameters as this one, but for their initial values: itself.

        A version whose layers are alike says so: the table of a large model is then made in less time.
        """
        return layer

    @abstractmethod
    def outer_parameters(self, config: Config) -> tuple[ParameterSpec, ...]:
        """Return the parameters outside the layers: embedding, final LayerNorm, head."""

    def parameters(self, config: Config) -> tuple[ParameterSpec, ...]:
        """Return the table of all parameters of a language model: embedding, layers, final LayerNorm, head."""
        return _table(self, config)

    @abstractmethod
    def state_fields(self, config: Config) -> tuple[StateField, ...]:
        """Return the arrays of one layer's state, in the order in which they are stored."""

    def state_offsets(self, config: Config) -> dict[str, int]:
        """Return where each array begins in a layer's row of the state, in elements; ``"end"`` is the row's length."""
        offsets, start = {}, 0
        for field in self.state_fields(config):
            offsets[field.name] = start
            start += field.size
        return {**offsets, "end": start}

    def initial_state(self, config: Config, parameters: Mapping[str, Parameter]) -> npt.NDArray[Any]:
        """Return the state before the first token.

        Parameters
        ----------
        config : Config
        parameters : mapping of str to Parameter
            Those of the model, by canonical name; a tuned initial state is taken from them.

        Returns
        -------
        numpy.ndarray
            Shape (num_layers, numbers of a layer's state), float32 or float64 as the config computes.
        """
        state = np.empty(
            (config.num_layers, self.state_offsets(config)["end"]),
            np.float64 if config.compute_dtype == "f64" else np.float32,
        )
        start = 0
        for field in self.state_fields(config):
            state[:, start : start + field.size] = field.initial
            start += field.size
        return state

    @abstractmethod
    def time_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled time mix of a layer: a ``rwkv_cy.kernels.stack.Mix``.

        Parameters
        ----------
        config : Config
        layer : int
            Its index.
        parameters : mapping of str to Parameter
            Those of the layer, by their names within it.
        output_scale : float
            Factor of the result: a power of two.
        activations : {"f32", "bf16"}
            What bf16 matrices are multiplied with.
        """

    @abstractmethod
    def channel_mix(
        self, config: Config, layer: int, parameters: Mapping[str, Parameter], output_scale: float, activations: str
    ) -> Any:
        """Return the compiled channel mix of a layer; arguments as for :meth:`time_mix`."""

    def gradients(self, config: Config, layer: int, time_mix: Any, channel_mix: Any) -> tuple[Any, Any]:
        """Return the backward pass of a layer's two mixes: each a ``rwkv_cy.kernels.gradient.MixGradient``.

        Parameters
        ----------
        config : Config
        layer : int
            Its index.
        time_mix, channel_mix : rwkv_cy.kernels.stack.Mix
            The results of :meth:`time_mix` and :meth:`channel_mix`.

        Raises
        ------
        UnsupportedError
            If this version does not have one.
        """
        raise UnsupportedError(f"{self.label}: gradients are not supported for this version")

    def initial_state_gradient(self, config: Config, d_state: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the gradients of the parameters that :meth:`initial_state` takes the state from.

        Parameters
        ----------
        config : Config
        d_state : numpy.ndarray
            Gradient of that state, of its shape.

        Returns
        -------
        mapping of str to numpy.ndarray
            By canonical name.
        """
        return {}


@lru_cache(maxsize=4)  # opening a file takes it several times, and making it takes longer than the rest
def _table(architecture: Architecture, config: Config) -> tuple[ParameterSpec, ...]:
    embedding, *rest = architecture.outer_parameters(config)
    table = [embedding]
    first: dict[int, tuple[ParameterSpec, ...]] = {}
    for layer in range(config.num_layers):
        alike = architecture.alike(layer)
        if alike not in first:
            first[alike] = architecture.parameters_of_layer(config, alike)
        if alike == layer:
            table += [spec.of_layer(layer) for spec in first[alike]]
        else:
            initial = _InitialValues(architecture, config, layer)
            table += [spec.of_layer(layer, partial(initial, at)) for at, spec in enumerate(first[alike])]
    return (*table, *rest)


class _InitialValues:
    """Initial values of the parameters of one layer, whose table is made when they are needed."""

    def __init__(self, architecture: Architecture, config: Config, layer: int) -> None:
        self._arguments = architecture, config, layer

    def __call__(self, at: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Return the initial value of the parameter at that place in the layer's table."""
        architecture, config, layer = self._arguments
        return architecture.parameters_of_layer(config, layer)[at].initialise(rng)
