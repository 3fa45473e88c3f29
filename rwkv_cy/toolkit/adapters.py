"""Adapters: the formulas by which their tensors change the parameters of a model, part by part.

The formulas are those of RWKV-PEFT (merge/*.py of its repository, before and after DiSHA) and web-rwkv.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from rwkv_cy.records import dataclass

__all__ = [
    "AdapterFile",
    "AdapterTensor",
    "Bat",
    "Bone",
    "Change",
    "Factors",
    "Floats",
    "LowRank",
    "ReadTensor",
    "Update",
    "Whole",
]

Floats = npt.NDArray[np.float64]
AdapterFile = Literal["adapter", "initial", "state"]
#: ``update(rows, first, column)`` changes part of a matrix, which begins at that row and column, in place.
Update = Callable[[Floats, int, int], None]


@dataclass(frozen=True)
class AdapterTensor:
    """A tensor of one of an adapter's files.

    Attributes
    ----------
    name : str
    file : {"adapter", "initial", "state"}
        The adapter itself, the file of PiSSA's initial factors, or a file of tuned states beside it.
    """

    name: str
    file: AdapterFile = "adapter"


class ReadTensor(Protocol):
    """Reads tensors of the adapter, from any thread."""

    def __call__(self, tensor: AdapterTensor, start: int = 0, count: int | None = None) -> Floats:
        """Return `count` numbers from `start` on, 1-D; or all of them, in the tensor's shape."""
        ...


class Change(ABC):
    """How an adapter changes one parameter.

    Attributes
    ----------
    label : str
        Kind of the adapter, for people.
    """

    label: str

    @property
    def replaces(self) -> bool:
        """Whether nothing of the base's numbers is left."""
        return False

    @property
    @abstractmethod
    def tensors(self) -> tuple[AdapterTensor, ...]:
        """What it is made of."""

    @property
    def columns(self) -> int:
        """Columns of a row that are changed together: parts begin and end at multiples of it, or at the row's end."""
        return 1

    @abstractmethod
    def update(self, read: ReadTensor) -> Update:
        """Read the tensors, and return the function that changes rows of the matrix."""


@dataclass(frozen=True)
class Whole(Change):
    """A tensor that was trained as a whole: it replaces that of the base, or is interpolated with it."""

    tensor: AdapterTensor
    shape: tuple[int, ...]
    weight: float
    label = "whole tensor"

    @property
    def replaces(self) -> bool:
        """Whether it is not interpolated."""
        return self.weight == 1

    @property
    def tensors(self) -> tuple[AdapterTensor, ...]:
        """The tensor itself."""
        return (self.tensor,)

    def update(self, read: ReadTensor) -> Update:
        """Return the function that replaces or interpolates."""

        def update(rows: Floats, first: int, column: int) -> None:
            # Rows are whole, or one is a part.
            new = read(self.tensor, first * self.shape[-1] + column, rows.size).reshape(rows.shape)
            rows[...] = new if self.replaces else rows + self.weight * (new - rows)

        return update


@dataclass(frozen=True)
class Factors:
    """A product B·A that is added with a scale."""

    a: AdapterTensor
    b: AdapterTensor
    scale: float
    transposed: bool = False  # A is stored as (inputs, rank)


@dataclass(frozen=True)
class LowRank(Change):
    """W += (alpha / r)·B·A, with A (r, in) and B (out, r); or PiSSA: W += B·A - B0·A0."""

    products: tuple[Factors, ...]
    label: str

    @property
    def tensors(self) -> tuple[AdapterTensor, ...]:
        """All factors."""
        return tuple(tensor for product in self.products for tensor in (product.a, product.b))

    def update(self, read: ReadTensor) -> Update:
        """Return the function that adds the products."""
        factors = [
            (read(product.a).T if product.transposed else read(product.a), read(product.b) * product.scale)
            for product in self.products
        ]

        def update(rows: Floats, first: int, column: int) -> None:
            for a, b in factors:
                rows += b[first : first + rows.shape[0]] @ a[:, column : column + rows.shape[1]]

        return update


@dataclass(frozen=True)
class Bone(Change):
    """W[:, b·r + j] += D[j, :] for every block b of r inputs, with D (r, out)."""

    tensor: AdapterTensor
    label: str

    @property
    def tensors(self) -> tuple[AdapterTensor, ...]:
        """D."""
        return (self.tensor,)

    def update(self, read: ReadTensor) -> Update:
        """Return the function that adds D to every block of inputs."""
        d = read(self.tensor)

        def update(rows: Floats, first: int, column: int) -> None:
            inputs = (column + np.arange(rows.shape[1])) % d.shape[0]
            rows += d[inputs, first : first + rows.shape[0]].T

        return update


@dataclass(frozen=True)
class Bat(Change):
    """W_ab += W_ab·D + D for every block of r rows a and r columns b: D is that of the columns, or of the rows.

    The tensor is (in / r, r, r) or (out / r, r, r), or in the oldest files (out, r).
    """

    tensor: AdapterTensor
    rank: int
    by_rows: bool
    label: str

    @property
    def tensors(self) -> tuple[AdapterTensor, ...]:
        """All D."""
        return (self.tensor,)

    @property
    def columns(self) -> int:
        """Columns of a block."""
        return self.rank

    def update(self, read: ReadTensor) -> Update:
        """Return the function that changes every block."""
        r = self.rank
        d = read(self.tensor).reshape(-1, r, r)

        def update_rows(rows: Floats, first: int, column: int) -> None:
            # D by row block: rows of one block at a time.
            for begin in range(first // r * r, first + len(rows), r):
                part = rows[max(begin - first, 0) : begin + r - first]
                within = (max(begin, first) + np.arange(len(part))) % r
                own = d[begin // r]
                blocks = part.reshape(len(part), -1, r)
                blocks += blocks @ own + own[within][:, None]

        def update_columns(rows: Floats, first: int, column: int) -> None:
            own = d[column // r : (column + rows.shape[1]) // r]
            blocks = rows.reshape(len(rows), -1, r).transpose(1, 0, 2)
            blocks += blocks @ own + own[:, (first + np.arange(len(rows))) % r]

        return update_rows if self.by_rows else update_columns
