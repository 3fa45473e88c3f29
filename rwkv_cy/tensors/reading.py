"""Decoded numbers of a tensor, from any source: by rows, by elements, or by blocks."""

from __future__ import annotations

from collections.abc import Iterator

from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.tensors.codecs import BLOCK_SIZE, Codec, GroupedCodec, StoredArray, rows_at_once
from rwkv_cy.tensors.codecs.base import Array
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.tensors.transposing import read_columns

__all__ = ["check_stored", "decode_rows", "number_type", "read_blocks", "read_numbers", "read_rows"]


def number_type(info: TensorInfo) -> str:
    """Return the storage type of a tensor's decoded numbers."""
    return info.codec.numbers


def _stored(source: ParameterSource, info: TensorInfo) -> StoredArray:
    def read(start: int, count: int) -> Array:
        buffer = read_buffer(count, info.codec.array_dtype)
        source.read_into(info.name, buffer, start)
        return buffer

    return StoredArray(f"{source.path}: {info.name}", info.encoded_shape, info.nbytes, read)


def check_stored(source: ParameterSource, info: TensorInfo) -> None:
    """Raise FormatError unless the layout information in a stored array is valid; reads little else.

    Kernels that use the array in place rely on this check.
    """
    info.codec.check(_stored(source, info))


def decode_rows(codec: Codec, encoded: Array, shape: tuple[int, int]) -> Array:
    """Return the numbers of a matrix, of that shape, that a codec has encoded in memory."""
    stored = StoredArray("", shape, encoded.nbytes, lambda start, count: encoded[start : start + count])
    return codec.decode_rows(stored, 0, shape[0])


def read_rows(source: ParameterSource, info: TensorInfo, first: int, count: int, *, transposed: bool = False) -> Array:
    """Read rows of a matrix or of its transpose.

    Parameters
    ----------
    source : ParameterSource
    info : TensorInfo
        The matrix, as the source describes it.
    first, count : int
        Rows to read: from the start of a group of rows (``codec.row_group``) to the end of a group or of the matrix.
    transposed : bool, default False
        Read rows of the transpose. Not of a matrix whose codec encodes it as a whole.

    Returns
    -------
    numpy.ndarray
        Shape (count, columns), or (count, rows) for the transpose; of the storage type ``number_type(info)``.

    Raises
    ------
    FormatError
        If the stored array is inconsistent, or the file is truncated.
    """
    if info.transposed == transposed:
        return info.codec.decode_rows(_stored(source, info), first, count)
    if isinstance(info.codec, GroupedCodec):
        return info.codec.decode_columns(_stored(source, info), first, count)
    return read_columns(source, info, first, count)


def read_numbers(
    source: ParameterSource, info: TensorInfo, start: int, count: int, *, transposed: bool = False
) -> Array:
    """Return `count` numbers of a tensor from number `start` on, 1-D, in C order of its canonical shape.

    With `transposed`, in C order of its transpose. Needs memory for them, and for two more groups of rows if the
    numbers are encoded by rows.
    """
    if info.transposed == transposed and not info.codec.matrices_only:
        return _stored(source, info).read(start, count)
    rows, columns = info.shape[::-1] if transposed else info.shape
    group = info.codec.row_group
    first = start // (group * columns) * group
    last = min(-(-(start + count) // (group * columns)) * group, rows)
    offset = start - first * columns
    return read_rows(source, info, first, last - first, transposed=transposed).reshape(-1)[offset : offset + count]


def read_blocks(source: ParameterSource, info: TensorInfo, block_size: int = BLOCK_SIZE) -> Iterator[Array]:
    """Yield all numbers of a tensor, about `block_size` at a time; for a transposed matrix in the order of the array.

    Each block is 1-D, of the storage type ``number_type(info)``, and valid until the next one, which may
    use the same memory. Matrices that are encoded by groups of rows are read in whole groups.

    Raises
    ------
    FormatError, StorageError
        As raised by the source's ``read_into``.
    """
    if info.codec.matrices_only:
        rows, columns = info.encoded_shape
        step = rows_at_once(columns, info.codec.row_group, block_size)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            yield read_rows(source, info, first, count, transposed=info.transposed).reshape(-1)
        return
    buffer = read_buffer(min(block_size, info.size), info.codec.array_dtype)
    for start in range(0, info.size, block_size):
        block = buffer[: min(block_size, info.size - start)]
        source.read_into(info.name, block, start)
        yield block
