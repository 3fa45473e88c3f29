"""bf12: matrices of bfloat16 compressed to 12 bits a weight, without loss.

A table of sixteen exponents is chosen for the matrix; weights with other exponents ("escapes") are stored in lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

import numpy as np

from rwkv_cy.errors import FormatError, KernelError, StorageError
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.codecs.base import Array, Plan, PlannedCodec, ReadRows, StoredArray, rows_at_once

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BF12Codec", "BF12Plan"]

#: Column numbers have 16 bits.
_MAX_COLUMNS = 1 << 16
#: Rows whose lists are checked at a time.
_CHECKED_ROWS = 1 << 14
_ADVICE = "convert the model again"


@dataclass(frozen=True)
class BF12Plan(Plan):
    """How a matrix is compressed.

    Attributes
    ----------
    table : tuple of int
        The sixteen exponents in the table.
    escapes : int
        Number of weights with other exponents.
    """

    table: tuple[int, ...]
    escapes: int


class BF12Codec(PlannedCodec):
    """Compressed bfloat16; docs/file-format.md specifies the layout."""

    name = "bf12"
    numbers = "bf16"
    row_group = 16  # a multiple of the four that are packed together, for blocks of an even size
    plain_types = ("bf16",)
    since = 2

    def array_shape(self, shape: tuple[int, ...], nbytes: int = 0) -> tuple[int, ...]:
        """Return the bytes of the array, which depend on the number of escapes."""
        return (nbytes,)

    def shape_problem(self, array_shape: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
        """Describe expected and actual size unless some number of escapes gives an array of that many bytes."""
        from rwkv_cy.kernels import packed

        least, most = packed.packed_nbytes(shape, 0), packed.packed_nbytes(shape, math.prod(shape))
        if len(array_shape) == 1 and least <= array_shape[0] <= most and array_shape[0] % 64 == 0:
            return None
        return (
            f"a multiple of 64 from {least} to {most} bytes for {self.name} of shape {str(shape)[:80]}, "
            f"got {array_shape}"
        )

    def decode_rows(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read rows of a matrix and unpack them: bfloat16 as uint16."""
        from rwkv_cy.kernels import bf12 as kernels
        from rwkv_cy.kernels import packed

        columns = stored.shape[1]
        table, escapes = _head(stored)
        nbytes = -(-count // kernels.PACKED_ROWS) * kernels.group_nbytes(columns)
        chunks = stored.read(packed.HEAD_BYTES + first // kernels.PACKED_ROWS * kernels.group_nbytes(columns), nbytes)
        words: npt.NDArray[np.uint16] = kernels.unpack_rows(chunks, table, (count, columns))
        try:
            packed.put_escapes(words, *_lists(stored, first, count, escapes))
        except KernelError as error:
            raise FormatError(f"{stored.where}: {error}; {_ADVICE}") from error
        return words

    def plan(self, blocks: Iterable[Array], shape: tuple[int, ...]) -> BF12Plan | None:
        """Choose the table; None if plain bf16 is better.

        Plain bf16 is better if many weights have exponents outside of the sixteen most frequent ones, or if the padding
        of a small matrix outweighs the gain.
        """
        from rwkv_cy.kernels import bf12 as kernels
        from rwkv_cy.kernels import packed

        if len(shape) != 2 or shape[1] > _MAX_COLUMNS:
            return None
        counts = np.zeros(256, np.int64)
        for block in blocks:
            kernels.count_exponents(block, counts)
        table = packed.choose_table(counts)
        size = math.prod(shape)
        escapes = size - int(counts[table].sum())
        nbytes = packed.packed_nbytes(shape, escapes)
        if escapes > packed.max_escapes(shape) or nbytes >= 2 * size:
            return None
        # The lists and the counts of each row are in memory until the last row, and briefly twice at the end.
        working = 3 * 4 * escapes + 3 * 8 * shape[0]
        return BF12Plan(nbytes, working, tuple(table.tolist()), escapes)

    def encode(self, rows: ReadRows, shape: tuple[int, ...], plan: Plan, where: str) -> Iterator[Array]:
        """Yield table, packed rows and lists of escapes.

        Raises
        ------
        StorageError
            If the matrix has changed since it was planned.
        """
        from rwkv_cy.kernels import bf12 as kernels
        from rwkv_cy.kernels import packed

        plan = cast(BF12Plan, plan)
        table = np.array(plan.table, np.uint8)
        head = packed.pack_head(table, plan.escapes)
        yield head
        done = head.size
        escapes: list[npt.NDArray[np.uint16]] = []
        counts: list[npt.NDArray[np.int64]] = []
        step = rows_at_once(shape[1], self.row_group)
        for first in range(0, shape[0], step):
            chunks, escaped, in_rows = kernels.pack_rows(rows(first, min(step, shape[0] - first)), table)
            yield chunks
            done += chunks.size
            escapes.append(escaped)
            counts.append(in_rows)
        lists = np.concatenate(escapes)
        if len(lists) != plan.escapes:
            raise StorageError(
                f"{where}: expected {plan.escapes} escapes, got {len(lists)}; "
                "it changed while it was read: convert it again"
            )
        yield packed.pack_tail(lists, np.concatenate(counts), plan.nbytes - done)

    def check(self, stored: StoredArray) -> None:
        """Raise FormatError unless the table and the lists of escapes are valid; reads those only."""
        from rwkv_cy.kernels import packed

        rows, columns = stored.shape
        _, escapes = _head(stored)
        for first in range(0, rows, _CHECKED_ROWS):
            count = min(_CHECKED_ROWS, rows - first)
            try:
                packed.escape_places(*_lists(stored, first, count, escapes), columns)
            except KernelError as error:
                raise FormatError(f"{stored.where}: {error}; {_ADVICE}") from error


def _head(stored: StoredArray) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the table and the number of escapes, both checked."""
    from rwkv_cy.kernels import bf12 as kernels
    from rwkv_cy.kernels import packed

    head = stored.read(0, packed.HEAD_BYTES)
    table, escapes = head[: kernels.TABLE_SIZE], packed.stored_escapes(head)
    if (np.diff(table.astype(np.int64)) <= 0).any():
        raise FormatError(
            f"{stored.where}: expected sixteen exponents in ascending order, got {table.tolist()}; {_ADVICE}"
        )
    expected = packed.packed_nbytes(stored.shape, escapes)
    if expected != stored.nbytes:
        raise FormatError(
            f"{stored.where}: expected {expected} bytes for {escapes} escapes, got {stored.nbytes}; {_ADVICE}"
        )
    # An escape costs a product as much as many weights: a file full of escapes would slow down every token.
    most = packed.max_escapes(stored.shape)
    if escapes > most:
        raise FormatError(
            f"{stored.where}: expected at most {most} escapes, one for {packed.WEIGHTS_PER_ESCAPE:,} weights, "
            f"got {escapes}; {_ADVICE}"
        )
    return table, escapes


def _lists(
    stored: StoredArray, first: int, count: int, escapes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Return start and end of the rows' lists, counted from that of row `first`, and the escapes in them."""
    from rwkv_cy.kernels import bf12 as kernels
    from rwkv_cy.kernels import packed

    rows, columns = stored.shape
    offset = packed.HEAD_BYTES + -(-rows // kernels.PACKED_ROWS) * kernels.group_nbytes(columns)
    starts = stored.read(offset + 4 * first, 4 * (count + 1)).view("<u4").astype(np.int64)
    begin, end = int(starts[0]), int(starts[-1])
    complete = (first > 0 or begin == 0) and (first + count < rows or end == escapes)
    if not complete or not begin <= end <= escapes:
        raise FormatError(
            f"{stored.where}: expected lists of {escapes} escapes one after the other, got others; {_ADVICE}"
        )
    lists = stored.read(offset + 4 * (rows + 1 + begin), 4 * (end - begin))
    return starts - begin, lists.view("<u2").reshape(-1, 2)
