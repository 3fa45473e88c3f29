"""Encoding and decoding of compressed bfloat16 (bf12); csrc/codec/bf12.h describes the layout."""

import numpy as np

from rwkv_cy.errors import KernelError

from rwkv_cy.kernels.dispatch cimport bf12_count, bf12_pack, bf12_unpack

#: Exponents in a table, rows in a group.
TABLE_SIZE, PACKED_ROWS = 16, 4
_CHUNK_COLUMNS, _CHUNK_BYTES = 128, 192


def group_nbytes(columns):
    """Return the bytes of a group of four rows."""
    return -(-columns // _CHUNK_COLUMNS) * _CHUNK_BYTES * PACKED_ROWS


def count_exponents(const unsigned short[::1] words, long long[::1] counts):
    """Add the number of bfloat16 words with exponent `e` to ``counts[e]``.

    Parameters
    ----------
    words : numpy.ndarray
        1-D, uint16.
    counts : numpy.ndarray
        Shape (256,), int64; updated in place.

    Raises
    ------
    KernelError
        If `counts` does not have 256 elements.
    """
    if counts.shape[0] != 256:
        raise KernelError(f"count_exponents: expected 256 counts, got {counts.shape[0]}")
    if words.shape[0] > 0:
        with nogil:
            bf12_count(&words[0], words.shape[0], &counts[0])


def pack_rows(const unsigned short[:, ::1] words, const unsigned char[::1] table):
    """Pack rows of a matrix.

    Parameters
    ----------
    words : numpy.ndarray
        Shape (rows, columns), bfloat16 as uint16, at most 65,536 columns. Groups of four rows are independent.
    table : numpy.ndarray
        Sixteen exponents, uint8.

    Returns
    -------
    chunks : numpy.ndarray
        uint8, :func:`group_nbytes` bytes for each four rows.
    escapes : numpy.ndarray
        Shape (escapes, 2), uint16: column and bits, by row, then by column.
    counts : numpy.ndarray
        Shape (rows,), int64: number of escapes in each row.

    Raises
    ------
    KernelError
        If the matrix is empty or too wide, or the table does not have sixteen exponents.
    """
    cdef Py_ssize_t rows = words.shape[0], columns = words.shape[1], escaped
    if rows < 1 or not 1 <= columns <= 65536 or table.shape[0] != TABLE_SIZE:
        raise KernelError(
            f"pack_rows: expected 1 to 65536 columns and a table of {TABLE_SIZE}, "
            f"got ({rows}, {columns}) and {table.shape[0]}"
        )
    chunks = np.empty(-(-rows // PACKED_ROWS) * group_nbytes(columns), np.uint8)
    ends = np.empty(rows, np.int64)
    # Capacity for the usual case; there is a second pass if it is too small.
    escapes = np.empty((1 + rows * columns // 512, 2), np.uint16)
    cdef unsigned char[::1] out = chunks
    cdef long long[::1] ends_view = ends
    cdef unsigned short[:, ::1] escapes_view = escapes
    with nogil:
        escaped = bf12_pack(&words[0, 0], rows, columns, &table[0], &out[0], &escapes_view[0, 0],
                            escapes_view.shape[0], &ends_view[0])
    if escaped > escapes.shape[0]:
        escapes = np.empty((escaped, 2), np.uint16)
        escapes_view = escapes
        with nogil:
            bf12_pack(&words[0, 0], rows, columns, &table[0], &out[0], &escapes_view[0, 0], escaped, &ends_view[0])
    return chunks, escapes[:escaped], np.diff(ends, prepend=0)


def unpack_rows(const unsigned char[::1] chunks, const unsigned char[::1] table, shape):
    """Decode rows of a matrix to uint16, without inserting the escapes, which is left to the caller.

    Parameters
    ----------
    chunks : numpy.ndarray
        As returned by :func:`pack_rows`.
    table : numpy.ndarray
        Sixteen exponents, uint8.
    shape : tuple of int
        (rows, columns).

    Raises
    ------
    KernelError
        If the number of bytes does not match `shape`, or the table does not have sixteen exponents.
    """
    cdef Py_ssize_t rows = shape[0], columns = shape[1]
    expected = -(-rows // PACKED_ROWS) * group_nbytes(columns)
    if rows < 1 or columns < 1 or chunks.shape[0] != expected or table.shape[0] != TABLE_SIZE:
        raise KernelError(
            f"unpack_rows: expected {expected} bytes for {shape} and a table of {TABLE_SIZE}, "
            f"got {chunks.shape[0]} and {table.shape[0]}"
        )
    words = np.empty(shape, np.uint16)
    cdef unsigned short[:, ::1] out = words
    with nogil:
        bf12_unpack(&table[0], &chunks[0], rows, columns, &out[0, 0])
    return words
