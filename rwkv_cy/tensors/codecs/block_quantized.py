"""Block-quantized matrices, q8, q6, q4 and q4n: blocks of small integers, with a scale for each row of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rwkv_cy.dtypes import GROUP_ROWS, QuantizedType
from rwkv_cy.errors import NumericalError
from rwkv_cy.tensors.codecs.base import Array, GroupedCodec, StoredArray

if TYPE_CHECKING:
    from rwkv_cy.tensors.feedback import Inputs

__all__ = ["BlockQuantizedCodec"]


class BlockQuantizedCodec(GroupedCodec):
    """Blocks of 16 rows and 32 or 64 columns; docs/file-format.md specifies the layout.

    Parameters
    ----------
    storage : QuantizedType
    since : int
        Minor version of the model file that introduced it.
    """

    numbers = "f32"
    row_group = GROUP_ROWS
    alignment = 2  # scales are words of 16 bits
    plain_types = ("f16", "bf16")
    requantizes = True
    factor_type = "q8"

    def __init__(self, storage: QuantizedType, since: int) -> None:
        self.name = storage.name
        self.since = since
        self.searches = storage.searched
        self._storage = storage

    def array_shape(self, shape: tuple[int, ...], nbytes: int = 0) -> tuple[int, ...]:
        """Return (groups of rows, blocks in a group, bytes of a block)."""
        return self._storage.packed_shape(shape)

    def group_size(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of the blocks of 16 rows."""
        _, blocks, block_bytes = self.array_shape(shape)
        return blocks * block_bytes

    def decode_rows(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read rows of a matrix and dequantize them: float32."""
        from rwkv_cy.kernels.matrix import unpack

        part = count, stored.shape[1]
        array_shape = self.array_shape(part)
        unit = self.group_size(part)
        packed = stored.read(first // GROUP_ROWS * unit, array_shape[0] * unit)
        return np.asarray(unpack(packed.reshape(array_shape), self.name, part))

    def decode_columns(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read columns of a matrix and dequantize them: float32, each a row of the result."""
        from rwkv_cy.kernels.matrix import transposed, unpack

        rows, columns = stored.shape
        width, block_bytes = self._storage.columns, self._storage.block_bytes
        begin, end = first // width, -(-(first + count) // width)
        part = GROUP_ROWS, min(end * width, columns) - begin * width
        group = self.group_size(stored.shape)
        result = np.empty((count, -(-rows // GROUP_ROWS) * GROUP_ROWS), np.float32)
        for index in range(result.shape[1] // GROUP_ROWS):
            packed = stored.read(index * group + begin * block_bytes, (end - begin) * block_bytes)
            numbers = unpack(packed.reshape(1, end - begin, block_bytes), self.name, part)
            block = transposed(np.ascontiguousarray(numbers[:, first - begin * width :][:, :count]))
            result[:, index * GROUP_ROWS :][:, :GROUP_ROWS] = block
        return np.ascontiguousarray(result[:, :rows])

    def encode_rows(self, numbers: Array, where: str, inputs: Inputs | None = None) -> Array:
        """Quantize rows of a matrix.

        Raises
        ------
        NumericalError
            If a weight is NaN or infinite, or too large for the float16 scales.
        """
        from rwkv_cy.kernels.matrix import pack, unpack

        if not np.isfinite(numbers).all():
            raise NumericalError(
                f"{where}: expected finite weights to quantize to {self.name}, got NaN or infinity; "
                "convert to another dtype, or get an undamaged checkpoint"
            )
        packed: Array
        if inputs is None or not self.searches:
            packed = pack(numbers, self.name)
        else:
            feedback = inputs.feedback(self._storage.columns)
            packed = feedback.encode(
                numbers,
                lambda block, importance: pack(block, self.name, importance),
                lambda blocks, shape: unpack(blocks, self.name, shape),
            )
        exponent = self._storage.exponent
        if (packed[:, :, : self._storage.head_bytes].view("<u2") & exponent == exponent).any():
            raise NumericalError(
                f"{where}: expected weights that {self.name} can hold, got up to {np.abs(numbers).max():.3g}; "
                "convert to another dtype"
            )
        return packed
