"""Parameters that several versions have, and the distributions of initial values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from rwkv_cy.architectures.base import Initialiser, Kind, ParameterSpec
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["constant", "embedding_and_head", "low_rank", "matrix", "norm", "orthogonal", "table", "uniform", "vector"]

Array: TypeAlias = "npt.NDArray[np.float64]"


def constant(value: float, *shape: int) -> Initialiser:
    """Return an initialiser that fills an array of that shape with `value`."""
    return lambda rng: np.full(shape, value)


def uniform(bound: float, *shape: int) -> Initialiser:
    """Return an initialiser that draws uniformly from [-bound, bound)."""
    return lambda rng: rng.uniform(-bound, bound, shape)


def orthogonal(rows: int, cols: int, gain: float) -> Initialiser:
    """Return an initialiser of `gain` times orthogonal rows or columns, whichever are fewer; zeros where it is 0."""
    if gain == 0:
        return constant(0.0, rows, cols)

    def draw(rng: np.random.Generator) -> Array:
        q, r = np.linalg.qr(rng.standard_normal((max(rows, cols), min(rows, cols))))
        # The signs of r's diagonal make the draw uniform over orthogonal matrices.
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return np.asarray(gain * (q if rows >= cols else q.T))

    return draw


def norm(name: str, size: int) -> tuple[ParameterSpec, ParameterSpec]:
    """Return weight and bias of a normalisation."""
    return (
        ParameterSpec(f"{name}.weight", (size,), "vector", constant(1.0, size)),
        ParameterSpec(f"{name}.bias", (size,), "vector", constant(0.0, size)),
    )


def vector(name: str, shape: tuple[int, ...], curve: Callable[[], Array]) -> ParameterSpec:
    """Return a vector whose initial values `curve` computes, when they are needed."""
    return ParameterSpec(name, shape, "vector", lambda rng: curve().reshape(shape))


def matrix(
    name: str, rows: int, cols: int, gain: float, *, kind: Kind = "matrix", sparse_input: bool = False
) -> ParameterSpec:
    """Return a matrix (out, in) that begins orthogonal, with that gain."""
    return ParameterSpec(name, (rows, cols), kind, orthogonal(rows, cols, gain), sparse_input=sparse_input)


def table(name: str, vocab_size: int, width: int, row: Callable[[], Array]) -> ParameterSpec:
    """Return a table in which tokens are looked up; every row of it begins as what `row` computes.

    Raises
    ------
    ConfigError
        If there is not a vocabulary.
    """
    if vocab_size < 1:
        raise ConfigError(f"Config.vocab_size: expected the number of tokens, which {name} has a row for, got 0")
    return ParameterSpec(name, (vocab_size, width), "table", lambda rng: np.tile(row(), (vocab_size, 1)))


def low_rank(name: str, inputs: int, rank: int, outputs: int, gain: float) -> tuple[ParameterSpec, ParameterSpec]:
    """Return the two factors (in, out) of a low-rank product: it begins at 0, since the first factor does.

    The second begins orthogonal, with that gain, times the root of its rows over its columns where it has more rows.
    """
    grown = gain * max(1.0, math.sqrt(rank / outputs))
    return (
        ParameterSpec(f"{name}1", (inputs, rank), "low_rank", constant(0.0, inputs, rank), orientation="in_out"),
        ParameterSpec(f"{name}2", (rank, outputs), "low_rank", orthogonal(rank, outputs, grown), orientation="in_out"),
    )


def embedding_and_head(config: Config, head_gain: float) -> tuple[ParameterSpec, ...]:
    """Return the parameters outside the layers, which every version has."""
    c, v = config.d_model, config.vocab_size
    return (
        ParameterSpec("emb.weight", (v, c), "embedding", uniform(1e-4, v, c)),
        *norm("ln_out", c),
        matrix("head.weight", v, c, head_gain, kind="head"),
    )
