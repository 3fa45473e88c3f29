"""Packing of bfloat16 matrices from a source: whether it pays, and the packed bytes from first to last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import MATRIX_TYPES, max_escapes, packed_nbytes, to_storage
from rwkv_cy.errors import StorageError
from rwkv_cy.kernels.bf12 import count_exponents, pack_rows
from rwkv_cy.kernels.packed import choose_table, pack_head, pack_tail
from rwkv_cy.tensors.blocks import BLOCK_SIZE, number_type, read_blocks
from rwkv_cy.tensors.groups import read_rows, rows_at_once
from rwkv_cy.tensors.orientation import read_matrix_rows
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["PackedStream", "Packing", "plan_packing"]

#: Columns are numbered in 16 bits.
_MAX_COLUMNS = 1 << 16


@dataclass(frozen=True)
class Packing:
    """How a matrix is packed.

    Attributes
    ----------
    table : tuple of int
        The sixteen exponents that have codes.
    escapes : int
        Weights of other exponents.
    nbytes : int
        Bytes of the packed matrix.
    """

    table: tuple[int, ...]
    escapes: int
    nbytes: int


def plan_packing(source: ParameterSource, info: TensorInfo) -> Packing | None:
    """Read a matrix once, in blocks, and say how it is packed; None where plain bf16 is better.

    That is so where many weights have exponents beyond the sixteen most frequent ones, and where rows and columns
    are so few that padding them outweighs the gain. Numbers of another type are rounded to bfloat16 first.
    """
    if len(info.shape) != 2 or info.shape[1] > _MAX_COLUMNS:
        return None
    counts = np.zeros(256, np.int64)
    for block in read_blocks(source, info):
        count_exponents(to_storage(block, number_type(info), "bf16"), counts)
    table = choose_table(counts)
    escapes = info.size - int(counts[table].sum())
    nbytes = packed_nbytes(info.shape, escapes)
    if escapes > max_escapes(info.shape) or nbytes >= 2 * info.size:
        return None
    return Packing(tuple(table.tolist()), escapes, nbytes)


class PackedStream:
    """The bytes of a packed matrix, one after the other, made from its source as they are asked for.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it.
    packing : Packing
        What :func:`plan_packing` found.
    look : callable, optional
        Called with each block of numbers as it is read, of the type ``number_type(info)``.
    """

    def __init__(
        self,
        source: ParameterSource,
        info: TensorInfo,
        packing: Packing,
        look: Callable[[npt.NDArray[Any]], object] | None = None,
    ) -> None:
        self.info = info
        self._source = source
        self._packing = packing
        self._look = look
        self._parts = self._generate()
        self._left: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def fill(self, result: npt.NDArray[np.uint8]) -> None:
        """Fill `result`, 1-D, with the bytes that come next.

        Raises
        ------
        StorageError
            If the matrix is no longer that which was planned for.
        """
        at = 0
        while at < result.size:
            if self._left.size == 0:
                self._left = next(self._parts)
            part = self._left[: result.size - at]
            result[at : at + part.size] = part
            self._left = self._left[part.size :]
            at += part.size

    def _generate(self) -> Iterator[npt.NDArray[np.uint8]]:
        packing = self._packing
        rows, columns = self.info.shape
        table = np.array(packing.table, np.uint8)
        head = pack_head(table, packing.escapes)
        yield head
        done = head.size
        escapes: list[npt.NDArray[np.uint16]] = []
        counts: list[npt.NDArray[np.int64]] = []
        step = rows_at_once(columns, BLOCK_SIZE)
        for first in range(0, rows, step):
            chunks, escaped, in_rows = pack_rows(self._words(first, min(step, rows - first)), table)
            yield chunks
            done += chunks.size
            escapes.append(escaped)
            counts.append(in_rows)
        found = np.concatenate(escapes)
        if len(found) != packing.escapes:
            raise StorageError(
                f"{self._source.path}: {self.info.name}: expected {packing.escapes} escapes, got {len(found)}; "
                "it changed while it was read: convert it again"
            )
        yield pack_tail(found, np.concatenate(counts), packing.nbytes - done)

    def _words(self, first: int, count: int) -> npt.NDArray[np.uint16]:
        """Return rows as bfloat16; `first` begins a group of sixteen."""
        info = self.info
        if info.dtype in MATRIX_TYPES:
            block = read_rows(self._source, info, first, count)
        else:
            block = read_matrix_rows(self._source, info, first, count)
        if self._look is not None:
            self._look(block)
        return to_storage(block, number_type(info), "bf16")
