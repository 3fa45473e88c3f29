"""Transfer: the parameters of a source, block by block, in the types of the file that is being written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import GROUP_ROWS, MATRIX_TYPES, PACKED, QUANTIZED_TYPES, array_dtype, storage_type, to_storage
from rwkv_cy.errors import SpecError
from rwkv_cy.files.jobs import run_jobs
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.tensors.blocks import BLOCK_SIZE, NonFinite, count_nonfinite, number_type
from rwkv_cy.tensors.groups import group_bytes, pack_rows, read_numbers, read_rows, rows_at_once
from rwkv_cy.tensors.orientation import TurnedReader, read_matrix_rows
from rwkv_cy.tensors.packing import PackedStream, Packing
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["Progress", "Transfer"]

#: Told the bytes done and the bytes of all.
Progress = Callable[[int, int], None]


class Transfer:
    """Reads blocks of the source in the target's types, and keeps account of what is not a number.

    Parameters
    ----------
    source : ParameterSource
    total : int
        Bytes of all tensors in the target.
    progress : callable, optional
    packings : mapping of str to Packing, optional
        Of the matrices that become bf12, by name.

    Attributes
    ----------
    nonfinite : dict of str to NonFinite
        NaN and infinities of the source, for each tensor that has any.
    overflowed : dict of str to int
        Finite numbers of the source that became infinite in a narrower type, for each tensor that has any.
    """

    def __init__(
        self,
        source: ParameterSource,
        total: int,
        progress: Progress | None,
        packings: Mapping[str, Packing] | None = None,
    ) -> None:
        self.nonfinite: dict[str, NonFinite] = {}
        self.overflowed: dict[str, int] = {}
        self._source = source
        self._total = total
        self._progress = progress
        self._packings = packings or {}
        self._stream: PackedStream | None = None
        self._done = 0
        self._result = np.empty(0, np.uint8)
        self._turned = TurnedReader(source)

    def read(self, target: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
        """Return `count` elements of a tensor from `start`, in the target's storage type.

        The array is valid until the next call: its memory is used again, which saves the page faults of new memory.
        Of a quantized target the elements are the bytes of its blocks, asked for in whole groups; of a transposed one
        they come in the order in which it lies; those of a bf12 target are asked for in their order.

        Raises
        ------
        NumericalError
            If a matrix to be quantized has weights that are NaN, infinite, or too large.
        """
        info = self._source.info(target.name)
        wanted = array_dtype(target.dtype)
        nbytes = count * wanted.itemsize
        if self._result.nbytes < nbytes:
            self._result = np.empty(nbytes, np.uint8)
        result = self._result[:nbytes].view(wanted)
        if target.dtype in QUANTIZED_TYPES and target.dtype != info.dtype:
            self._quantize(info, target, start, result)
        elif target.dtype == PACKED and target.dtype != info.dtype:
            self._pack(info, start, result)
        else:
            turned = info.transposed != target.transposed
            for first in range(0, count, BLOCK_SIZE):
                self._read_block(info, target.dtype, start + first, result[first : first + BLOCK_SIZE], turned)
        self._done += result.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return result

    def _quantize(self, info: TensorInfo, target: TensorInfo, start: int, result: npt.NDArray[Any]) -> None:
        """Fill `result` with whole groups of packed blocks, from byte `start` of them."""
        rows, columns = info.shape
        unit = group_bytes(target)
        begin, end = start // unit * GROUP_ROWS, min((start + result.size) // unit * GROUP_ROWS, rows)
        threads = get_num_threads()
        step = rows_at_once(columns, min(BLOCK_SIZE, (end - begin) * columns // threads))

        def quantize(first: int) -> None:
            count = min(step, end - first)
            if info.dtype in MATRIX_TYPES:
                weights = to_storage(read_rows(self._source, info, first, count), number_type(info), "f32")
            else:
                weights = to_storage(read_matrix_rows(self._source, info, first, count), info.dtype, "f32")
            packed = pack_rows(weights, target.dtype, f"{self._source.path}: {info.name}")
            at = first // GROUP_ROWS * unit - start
            result[at : at + packed.size] = packed.reshape(-1)

        run_jobs(deque(partial(quantize, first) for first in range(begin, end, step)), threads)

    def _pack(self, info: TensorInfo, start: int, result: npt.NDArray[Any]) -> None:
        """Fill `result` with bytes of the packed matrix, which come from byte `start` on."""
        if start == 0:
            self._stream = PackedStream(
                self._source, info, self._packings[info.name], lambda block: self._count(info, block, number_type(info))
            )
        if self._stream is None or self._stream.info.name != info.name:
            raise SpecError(f"{info.name}: expected its packed bytes to be asked for from the first on, got {start}")
        self._stream.fill(result)

    def _count(self, info: TensorInfo, block: npt.NDArray[Any], dtype: str) -> NonFinite:
        """Count what is not a number in a block of the source."""
        found = count_nonfinite(block, dtype)
        if found:
            self.nonfinite[info.name] = self.nonfinite.get(info.name, NonFinite()) + found
        return found

    def _read_block(self, info: TensorInfo, dtype: str, start: int, result: npt.NDArray[Any], turned: bool) -> None:
        """Fill `result`, of storage type `dtype`, with elements from `start`; `turned`, with those of the transpose."""
        if info.dtype in MATRIX_TYPES:
            if info.dtype == dtype:
                self._source.read_into(info.name, result, start)
                return
            block, own = read_numbers(self._source, info, start, result.size), number_type(info)
        else:
            own = info.dtype
            block = result if own == dtype else np.empty(result.size, array_dtype(own))
            if turned:
                self._turned.read_into(info, block, start)
            else:
                self._source.read_into(info.name, block, start)
        found = self._count(info, block, own)
        if block is result:
            return
        result[:] = to_storage(block, own, dtype)
        if dtype in storage_type(own).lossless_in:
            return
        lost = count_nonfinite(result, dtype).inf - found.inf
        if lost:
            self.overflowed[info.name] = self.overflowed.get(info.name, 0) + lost
