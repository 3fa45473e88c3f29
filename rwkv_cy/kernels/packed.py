"""Assembly of whole bf12 matrices: head, chunks, lists of escapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import PACKED
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.bf12 import PACKED_ROWS, TABLE_SIZE, count_exponents, group_nbytes, pack_rows, unpack_rows

__all__ = [
    "HEAD_BYTES",
    "WEIGHTS_PER_ESCAPE",
    "choose_table",
    "escape_places",
    "max_escapes",
    "pack_head",
    "pack_matrix",
    "pack_tail",
    "packed_nbytes",
    "put_escapes",
    "stored_escapes",
    "unpack_matrix",
]

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

#: Bytes before the chunks.
HEAD_BYTES = 64
#: With a larger share of escapes, decoding takes longer than reading bf16.
WEIGHTS_PER_ESCAPE = 2048


def packed_nbytes(shape: tuple[int, ...], escapes: int) -> int:
    """Return the bytes of a matrix (rows, columns) with this number of escapes."""
    rows, columns = shape
    lists = 4 * (rows + 1) + 4 * escapes
    return -(-(HEAD_BYTES + -(-rows // PACKED_ROWS) * group_nbytes(columns) + lists) // 64) * 64


def max_escapes(shape: tuple[int, ...]) -> int:
    """Return the largest number of escapes that is allowed for a matrix (rows, columns) in a file."""
    return math.prod(shape) // WEIGHTS_PER_ESCAPE


def stored_escapes(packed: Bytes) -> int:
    """Return the number of escapes in the head (64 bytes) of a packed matrix."""
    return int(packed[TABLE_SIZE : TABLE_SIZE + 4].view("<u4")[0])


def pack_head(table: Bytes, escapes: int) -> Bytes:
    """Return the first 64 bytes of a packed matrix."""
    head = np.zeros(HEAD_BYTES, np.uint8)
    head[:TABLE_SIZE] = table
    head[TABLE_SIZE : TABLE_SIZE + 4].view("<u4")[0] = escapes
    return head


def pack_tail(escapes: Words, counts: Counts, nbytes: int) -> Bytes:
    """Return the part after the chunks: the start of each row's escapes, the escapes, and zeros up to `nbytes`."""
    tail = np.zeros(nbytes, np.uint8)
    starts = tail[: 4 * (counts.size + 1)].view("<u4")
    starts[1:] = np.cumsum(counts)
    tail[starts.nbytes : starts.nbytes + escapes.nbytes].view("<u2")[:] = escapes.reshape(-1)
    return tail


def choose_table(counts: Counts) -> Bytes:
    """Return the sixteen most frequent exponents, ascending, from the counts of :func:`count_exponents`."""
    return np.sort(np.argsort(counts, kind="stable")[-TABLE_SIZE:]).astype(np.uint8)


def pack_matrix(words: Words) -> Bytes:
    """Pack a matrix in memory, even if that does not make it smaller.

    Parameters
    ----------
    words : numpy.ndarray
        Shape (rows, columns), bfloat16 as uint16.

    Returns
    -------
    numpy.ndarray
        1-D, uint8, of :func:`packed_nbytes` bytes.
    """
    counts = np.zeros(256, np.int64)
    count_exponents(words.reshape(-1), counts)
    table = choose_table(counts)
    chunks, escapes, in_rows = pack_rows(words, table)
    size = packed_nbytes(words.shape, len(escapes))
    tail = pack_tail(escapes, in_rows, size - HEAD_BYTES - chunks.size)
    return np.concatenate([pack_head(table, len(escapes)), chunks, tail])


def unpack_matrix(packed: Bytes, shape: tuple[int, ...]) -> Words:
    """Unpack a matrix to bfloat16 (uint16); raises what :func:`escape_places` raises."""
    chunks_end = HEAD_BYTES + -(-shape[0] // PACKED_ROWS) * group_nbytes(shape[1])
    words = unpack_rows(packed[HEAD_BYTES:chunks_end], packed[:TABLE_SIZE], shape)
    starts = packed[chunks_end : chunks_end + 4 * (shape[0] + 1)].view("<u4")
    escapes = packed[chunks_end + starts.nbytes :][: 4 * stored_escapes(packed)].view("<u2").reshape(-1, 2)
    put_escapes(words, starts, escapes)
    return words


def put_escapes(words: Words, starts: npt.NDArray[Any], escapes: Words) -> None:
    """Insert the escapes into `words`, shape (rows, columns); see :func:`escape_places`."""
    words.reshape(-1)[escape_places(starts, escapes, words.shape[1])] = escapes[:, 1]


def escape_places(starts: npt.NDArray[Any], escapes: Words, columns: int) -> Counts:
    """Return the flat index of each escape in a matrix with this number of columns.

    Parameters
    ----------
    starts : numpy.ndarray
        Shape (rows + 1,): start and end of each row's escapes, counted from the first row's.
    escapes : numpy.ndarray
        Shape (escapes, 2): column and bits.
    columns : int

    Raises
    ------
    KernelError
        If the lists are not in order, or point outside of the matrix.
    """
    counts: Counts = starts[1:].astype(np.int64) - starts[:-1]
    if starts[0] != 0 or starts[-1] != len(escapes) or (counts < 0).any():
        raise KernelError(f"{PACKED}: expected lists of {len(escapes)} escapes one after the other, got others")
    rows = np.repeat(np.arange(len(counts)), counts)
    own = escapes[:, 0].astype(np.int64)
    places: Counts = rows * columns + own
    if (own >= columns).any() or (np.diff(places) <= 0).any():
        raise KernelError(f"{PACKED}: expected escapes in the order of their columns, below {columns}, got others")
    return places
