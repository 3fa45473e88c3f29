"""Floating point numbers, stored without encoding: f64, f32, f16 and bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkv_cy.dtypes import StorageType
from rwkv_cy.tensors.codecs.base import Array, Codec, StoredArray

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FloatCodec"]


class FloatCodec(Codec):
    """Numbers of one floating point type; stores tensors of any number of dimensions, matrices transposed or not.

    Parameters
    ----------
    storage : StorageType
    """

    matrices_only = False

    def __init__(self, storage: StorageType) -> None:
        self.name = self.numbers = storage.name
        self.itemsize = storage.itemsize
        self._storage = storage

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Type of the stored array."""
        return self._storage.array_dtype

    def array_shape(self, shape: tuple[int, ...], nbytes: int = 0) -> tuple[int, ...]:
        """Return the shape of the tensor."""
        return shape

    def decode_rows(self, stored: StoredArray, first: int, count: int) -> Array:
        """Read rows of a matrix."""
        columns = stored.shape[1]
        return stored.read(first * columns, count * columns).reshape(count, columns)
