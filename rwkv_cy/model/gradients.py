"""Gradients of a model's parameters, inputs and states, and the choice of parameters that get one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.errors import ConfigError
from rwkv_cy.model.state import State
from rwkv_cy.records import dataclass

__all__ = ["MEMORY", "Gradients", "LoRA", "buffers", "choose", "kept_bytes"]


#: Default of the bytes that a tape keeps of the activations; what is beyond is computed again. 1,024 tokens of RWKV-7
#: of 0.1B take 380 MiB.
MEMORY = 400 << 20


@dataclass(frozen=True)
class LoRA:
    """An adapter of a matrix W: the model computes with W + scale * B A.

    Attributes
    ----------
    a, b : numpy.ndarray
        Shapes (rank, inputs) and (outputs, rank), contiguous, of the model's type (float32 or float64). Passes use them
        without a copy: an optimiser may update them in place between passes.
    scale : float, default 1.0
        Alpha over rank, in the words of PEFT.
    """

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]
    scale: float = 1.0


@dataclass
class Gradients:
    """Gradients of a loss.

    Attributes
    ----------
    parameters : dict of str to numpy.ndarray
        By canonical name, of the canonical shape, float32 or float64 like the model; only of trainable parameters.
    inputs : numpy.ndarray or list of numpy.ndarray
        Of the vectors that the layers began with, shape (time, d_model): the rows of the embedding in a language model.
        A list, with one array for each sequence, after a batch.
    state : State or list of State
        Of the numbers of the initial state, in its layout. A list after a batch.
    """

    parameters: dict[str, npt.NDArray[Any]]
    inputs: Any
    state: Any

    def __repr__(self) -> str:
        states = [self.state] if isinstance(self.state, State) else self.state
        return f"Gradients({len(self.parameters)} parameters, {len(states)} sequences)"


def choose(names: Collection[str], default: Collection[str], trainable: str | Iterable[str] | None) -> frozenset[str]:
    """Return the parameters that get a gradient.

    Parameters
    ----------
    names : collection of str
        All parameters that can get one.
    default : collection of str
        Those that get one if `trainable` is None.
    trainable : str or iterable of str, optional
        Names, or patterns with ``*``.

    Raises
    ------
    ConfigError
        If a pattern does not match any parameter, or is not a text.
    """
    if trainable is None:
        return frozenset(default)
    patterns = [trainable] if isinstance(trainable, str) or not isinstance(trainable, Iterable) else list(trainable)
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ConfigError(
                "trainable: expected a name or pattern of parameters, or several, "
                f"got {type(pattern).__name__} {pattern!r}"
            )
        matching = {pattern} if pattern in names else {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            raise ConfigError(
                f"trainable: expected names or patterns of parameters, got {pattern!r}, which matches none of "
                f"{', '.join(sorted(names)[:4])}, ..."
            )
        chosen |= matching
    return frozenset(chosen)


def kept_bytes(memory: int | None) -> int:
    """Return the bytes of activations to keep; those of the default for None.

    Raises
    ------
    ConfigError
        If it is not a number of bytes.
    """
    if memory is None:
        return MEMORY
    if isinstance(memory, bool) or not isinstance(memory, int | np.integer) or memory < 0:
        raise ConfigError(f"memory: expected a number of bytes, 0 or more, got {memory!r}")
    return int(memory)


def buffers(
    shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any], given: Mapping[str, npt.NDArray[Any]] | None
) -> dict[str, npt.NDArray[Any]]:
    """Return an array for each gradient: zeros, or the given arrays, which are added to.

    Raises
    ------
    ConfigError
        If one of the given arrays is missing, or of another shape or type.
    """
    if given is None:
        return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        array = given.get(name)
        if (
            array is None
            or array.shape != shape
            or array.dtype != dtype
            or not (array.flags.c_contiguous and array.flags.writeable)
        ):
            got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ConfigError(f"parameters[{name!r}]: expected a contiguous array of {dtype} {shape}, got {got}")
    return {name: given[name] for name in shapes}
