"""What every version of RWKV is made of: a signature, a parameter table, a state layout, two mixes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rwkv_cy.config import Config
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["Architecture", "Initialiser", "LayerKernel", "ParameterSpec", "Shapes", "StackKernel", "StateField"]

Initialiser = Callable[[np.random.Generator], npt.NDArray[np.float64]]

#: Names of a file's tensors and their shapes: all that detection looks at.
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StateField:
    """One array of a layer's state.

    Attributes
    ----------
    name : str
        Name, and attribute of :class:`LayerState`: ``"att_aa"``.
    shape : tuple of int
        Its shape.
    initial : float
        What every element is before the first token.
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
    """What an architecture needs: one parameter.

    Attributes
    ----------
    name : str
        Canonical name.
    shape : tuple of int
        Expected shape, matrices (out, in).
    role : str
        ``"matrix"`` (stored in the chosen precision), ``"embedding"`` (the same, read row by row)
        or ``"vector"`` (small: stored as the checkpoint has it).
    initialise : callable
        Gives the initial value from a random generator, float64, of that shape.
    sparse_input : bool, default False
        A matrix whose inputs are mostly zeros: model files store it transposed, so that those cost nothing.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    initialise: Initialiser
    sparse_input: bool = False


class LayerKernel(Protocol):
    """One layer, compiled: what :class:`rwkv_cy.model.layer.Layer` has."""

    @property
    def time_mix(self) -> Any:
        """The compiled time mix, on its own."""
        ...

    @property
    def channel_mix(self) -> Any:
        """The compiled channel mix, on its own."""
        ...


class StackKernel(Protocol):
    """Layers one after the other, compiled: what :class:`rwkv_cy.model.encoder.Model` drives."""

    def forward(
        self,
        x: npt.NDArray[Any],
        states: npt.NDArray[Any],
        starts: npt.NDArray[np.intp],
        workspace: Any,
        num_threads: int,
        last_only: bool = False,
    ) -> None:
        """Run over the sequences in `x` (tokens, d_model) in place, moving their `states` on in place.

        With `last_only`, nothing but the last row of each sequence is wanted.
        """
        ...


@dataclass(frozen=True)
class Architecture:
    """One version of RWKV, as data.

    Attributes
    ----------
    name : str
        Key in the table, and in model files.
    label : str
        Name for people.
    matches : callable
        Whether tensors of these names and shapes are of this version.
    config : callable
        Reads the dimensions off the shapes; the second argument says where they come from, for errors.
    parameters : callable
        The table of all parameters of a language model of this config.
    layer_parameters : callable
        The parameters of layer i, names without the ``blocks.i.`` in front.
    state_fields : callable
        The fields of one layer's state.
    layer_kernel : callable
        Builds the compiled layer from its config, its index, its parameters, the factor of what both mixes give,
        and the type of activations that bf16 matrices are multiplied with.
    stack_kernel : callable
        Puts compiled layers one after the other.
    """

    name: str
    label: str
    matches: Callable[[Shapes], bool]
    config: Callable[[Shapes, str], Config]
    parameters: Callable[[Config], tuple[ParameterSpec, ...]]
    layer_parameters: Callable[[Config, int], tuple[ParameterSpec, ...]]
    state_fields: Callable[[Config], tuple[StateField, ...]]
    layer_kernel: Callable[[Config, int, Mapping[str, Parameter], float, str], LayerKernel]
    stack_kernel: Callable[[Sequence[LayerKernel]], StackKernel]
