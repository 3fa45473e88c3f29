"""A source seen under canonical names and shapes, whatever the file calls its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from rwkv_cy.errors import FormatError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.formats.names import canonical_shape, from_huggingface, is_huggingface, is_rwkv4
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["CanonicalNames", "Renamed", "canonical", "canonical_table"]

_EMBEDDING, _HEAD = "emb.weight", "head.weight"


@dataclass(frozen=True)
class Renamed:
    """A tensor under its canonical name and shape, and its name within the source."""

    info: TensorInfo
    inner: str


class CanonicalNames:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` that renames and reshapes the tensors of another one.

    The elements and their order stay as they are, so that views stay views.

    Parameters
    ----------
    source : ParameterSource
        Closed with this one.
    table : mapping of str to Renamed
        By canonical name.
    """

    def __init__(self, source: ParameterSource, table: Mapping[str, Renamed]) -> None:
        self.path = source.path
        self.format = source.format
        self.metadata = source.metadata
        self._source = source
        self._table = dict(table)

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files that hold the weights, as they were opened."""
        return self._source.files

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the file's order."""
        return tuple(self._table)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        return self._table[name].info

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements from `start`, in C order."""
        self._source.read_into(self._table[name].inner, buffer, start)

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over the memory map, or None where the source has no view."""
        renamed = self._table[name]
        array = self._source.view(renamed.inner)
        return None if array is None else array.reshape(renamed.info.shape)

    def check_bytes(self, name: str) -> bool:
        """Compare the checksum of a tensor's bytes, where the source has one."""
        return self._source.check_bytes(self._table[name].inner)

    def check(self) -> None:
        """Raise FormatError if a file has been truncated since it was opened."""
        self._source.check()

    def close(self) -> None:
        """Close the source. Arrays from :meth:`view` stay valid."""
        self._source.close()

    def __enter__(self) -> CanonicalNames:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def canonical(source: ParameterSource) -> ParameterSource:
    """Return `source` under canonical names and shapes: itself, where it has them already.

    See :func:`canonical_table`. The source is left open where that raises.
    """
    table = canonical_table(source)
    if all(name == renamed.inner and renamed.info == source.info(name) for name, renamed in table.items()):
        return source
    return CanonicalNames(source, table)


def canonical_table(source: ParameterSource, tied: bool = False) -> dict[str, Renamed]:
    """Find the canonical name and shape of each tensor of `source`.

    Hugging Face's names are translated; squeezed vectors of RWKV-4 get the shapes of the original checkpoints.

    Parameters
    ----------
    source : ParameterSource
        An open file.
    tied : bool
        The head shares the embedding's matrix: where there is no head, offer that one.

    Raises
    ------
    FormatError
        If two tensors stand for the same parameter.
    """
    inner_names = source.names()
    translate = from_huggingface if is_huggingface(inner_names) else str
    inner: dict[str, str] = {}
    for name in inner_names:
        twin = inner.setdefault(translate(name), name)
        if twin != name:
            raise FormatError(
                f"{source.path}: {translate(name)}: expected one tensor of that name, got {twin} and {name}; "
                "the file is damaged"
            )
    if tied and _EMBEDDING in inner:
        inner.setdefault(_HEAD, inner[_EMBEDDING])
    reshape = canonical_shape if is_rwkv4(inner) else _same_shape
    table = {}
    for name, inner_name in inner.items():
        info = source.info(inner_name)
        table[name] = Renamed(replace(info, name=name, shape=reshape(name, info.shape)), inner_name)
    return table


def _same_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape
