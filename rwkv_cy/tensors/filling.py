"""Filling: parameters read from a file into an arena by several threads, converted on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, array_dtype, to_storage
from rwkv_cy.files.jobs import Job, run_jobs
from rwkv_cy.tensors.arena import Arena
from rwkv_cy.tensors.blocks import number_type
from rwkv_cy.tensors.groups import pack_rows, read_rows, rows_at_once
from rwkv_cy.tensors.orientation import read_matrix_rows
from rwkv_cy.tensors.packing import PackedStream, Packing
from rwkv_cy.tensors.tensor import Parameter, ParameterSource, TensorInfo

__all__ = ["read_parameters"]

#: Bytes that are read at a time, and elements that are converted at a time.
_PIECE_BYTES, _PIECE_ELEMENTS = 8 << 20, 1 << 20


def read_parameters(
    source: ParameterSource, targets: Sequence[TensorInfo], num_threads: int, packings: Mapping[str, Packing]
) -> dict[str, Parameter]:
    """Read parameters into memory.

    Parameters
    ----------
    source : ParameterSource
        The file.
    targets : sequence of TensorInfo
        The parameters as they shall be: the dtype may be another than that of the source.
    num_threads : int
        Threads that read and convert; fewer where there is little to do.
    packings : mapping of str to Packing
        Of the matrices that become bf12, by name.

    Returns
    -------
    dict of str to Parameter
        By name. The arrays lie one after the other in one :class:`~rwkv_cy.tensors.arena.Arena`.

    Raises
    ------
    FormatError, StorageError
        If the file cannot be read to the end of a parameter.
    NumericalError
        If a matrix to be quantized has weights that are not finite, or too large.
    NotEnoughMemoryError
        If the system does not give so much memory.
    """
    size = sum(Arena.room(target.nbytes) for target in targets)
    arena = Arena(size)
    found = {}
    jobs: deque[Job] = deque()
    for target in targets:
        array = arena.take(target.array_shape, array_dtype(target.dtype))
        jobs.extend(_jobs(source, target, array, packings.get(target.name)))
        packed_from = target.shape if target.dtype in MATRIX_TYPES else None
        found[target.name] = Parameter(array, target.dtype, packed_from, target.transposed)
    run_jobs(jobs, min(num_threads, 1 + size // _PIECE_BYTES))
    return found


def _jobs(
    source: ParameterSource, target: TensorInfo, array: npt.NDArray[Any], packing: Packing | None
) -> Iterator[Job]:
    """Yield what fills `array`, in pieces that do not depend on each other."""
    info = source.info(target.name)
    if target.dtype == PACKED and packing is not None:
        yield partial(PackedStream(source, info, packing).fill, array)
        return
    if target.dtype != info.dtype and not {target.dtype, info.dtype}.isdisjoint(MATRIX_TYPES):
        rows, columns = info.shape
        step = rows_at_once(columns, _PIECE_ELEMENTS)
        for first in range(0, rows, step):
            yield partial(_through_floats, source, info, target.dtype, array, first, min(step, rows - first))
        return
    flat = array.reshape(-1)
    same = target.dtype == info.dtype
    step = _PIECE_BYTES // flat.itemsize if same else _PIECE_ELEMENTS
    for start in range(0, flat.size, step):
        piece = flat[start : start + step]
        if same:
            yield partial(source.read_into, info.name, piece, start)
        else:
            yield partial(_convert, source, info, target.dtype, piece, start)


def _convert(source: ParameterSource, info: TensorInfo, dtype: str, piece: npt.NDArray[Any], start: int) -> None:
    block = np.empty(piece.size, array_dtype(info.dtype))
    source.read_into(info.name, block, start)
    piece[:] = to_storage(block, info.dtype, dtype)


def _through_floats(
    source: ParameterSource, info: TensorInfo, dtype: str, array: npt.NDArray[Any], first: int, count: int
) -> None:
    """Fill whole groups of `array`, of type `dtype`, from a matrix in blocks, or into such a one."""
    if info.dtype in MATRIX_TYPES:
        block = read_rows(source, info, first, count)
    else:
        block = read_matrix_rows(source, info, first, count)
    if dtype in QUANTIZED_TYPES:
        groups = slice(first // GROUP_ROWS, -(-(first + count) // GROUP_ROWS))
        weights = to_storage(block, number_type(info), "f32")
        array[groups] = pack_rows(weights, dtype, f"{source.path}: {info.name}")
    else:
        array[first : first + count] = to_storage(block, number_type(info), dtype)
