"""Tensors of a file in the types of ggml, as a ParameterSource: quantized ones read as float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.tensors.tensor import TensorInfo, check_buffer

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GgmlSource", "describe"]

#: Numbers that are decoded at a time: memory stays bounded for any buffer, and intermediate results in the cache.
_DECODED_AT_ONCE = 1 << 15


def describe(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    """Describe a tensor.

    Parameters
    ----------
    path : Path
        The file, for messages.
    name : str
        The tensor's name, checked.
    shape : tuple of int
        Its shape, checked.
    dtype : str
        A storage type of floating point, or the name of a block type.

    Raises
    ------
    FormatError
        If a row is not a whole number of blocks.
    """
    size = math.prod(shape)
    block = BLOCK_TYPES.get(dtype)
    if block is None:
        return TensorInfo(name, shape, dtype, name, dtype, size * STORAGE_TYPES[dtype].itemsize)
    if not shape or shape[-1] % block.size:
        raise FormatError(
            f"{path}: {name}: expected rows of whole blocks of {block.size} for {dtype}, got shape {shape}; "
            "the file is damaged"
        )
    return TensorInfo(name, shape, "f32", name, dtype, size // block.size * block.nbytes)


class GgmlSource(RawSource):
    """A source whose tensors :func:`describe` describes; those in blocks are decoded as they are read."""

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` (1-D, of the tensor's array dtype) with elements from `start`, decoded."""
        tensor = self._tensors[name]
        if tensor.info.source_dtype in BLOCK_TYPES:
            check_buffer(tensor.info, buffer, start)
            for done in range(0, buffer.size, _DECODED_AT_ONCE):
                self._decode(tensor, buffer[done : done + _DECODED_AT_ONCE], start + done)
        else:
            super().read_into(name, buffer, start)

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over a memory map, or None where it is misaligned or decoded."""
        if self._tensors[name].info.source_dtype in BLOCK_TYPES:
            return None
        return super().view(name)

    def _decode(self, tensor: RawTensor, buffer: npt.NDArray[Any], start: int) -> None:
        """Read the blocks that hold elements ``start .. start + buffer.size``, and decode them into `buffer`."""
        block_type = BLOCK_TYPES[tensor.info.source_dtype]
        first = start // block_type.size
        last = -(-(start + buffer.size) // block_type.size)
        blocks = read_buffer(last - first, block_type.layout)
        self._file.read_into_at(tensor.offset + first * block_type.nbytes, blocks)
        # Scales that are infinite or NaN give such weights; conversion counts them.
        with np.errstate(all="ignore"):
            numbers = block_type.decode(blocks).reshape(-1)
        skipped = start - first * block_type.size
        buffer[:] = numbers[skipped : skipped + buffer.size]
