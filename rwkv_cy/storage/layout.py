"""HDF5's types and attributes of a dataset, and where HDF5 stores its bytes."""

from __future__ import annotations

from typing import Any

from h5py import h5d, h5t

from rwkv_cy.storage.schema import FORMAT_NAME, DatasetSpec
from rwkv_cy.tensors.codecs import CODECS

__all__ = ["FILE_TYPES", "AttributeValue", "dataset_attributes", "dataset_offset", "root_attributes"]

_HDF5_TYPES = {
    "u1": h5t.STD_U8LE,
    "u2": h5t.STD_U16LE,
    "f2": h5t.IEEE_F16LE,
    "f4": h5t.IEEE_F32LE,
    "f8": h5t.IEEE_F64LE,
}
#: HDF5's types, by the names of storage types.
FILE_TYPES = {
    "u8": h5t.STD_U8LE,
    **{name: _HDF5_TYPES[f"{codec.array_dtype.kind}{codec.array_dtype.itemsize}"] for name, codec in CODECS.items()},
}

#: What an attribute holds: a fixed-length string, a 32-bit unsigned integer, or several of 64 bits.
AttributeValue = str | int | tuple[int, ...]


def root_attributes(kind: str, version: tuple[int, int]) -> dict[str, AttributeValue]:
    """Return the attributes of the root group of a finished file."""
    major, minor = version
    return {"format": FORMAT_NAME, "kind": kind, "major": major, "minor": minor, "complete": 1}


def dataset_attributes(spec: DatasetSpec) -> dict[str, AttributeValue]:
    """Return the attributes of a dataset."""
    return {"dtype": spec.dtype, **spec.shape_fields}


def dataset_offset(dataset: h5d.DatasetID, spec: DatasetSpec) -> int | None:
    """Return the offset of the bytes of a dataset, or None if they are not one span in C order of the size of `spec`.

    The dataset must have the shape and the chunks of `spec`.
    """
    if dataset.get_storage_size() != spec.span:
        return None
    if spec.chunk is None:
        offset: int | None = dataset.get_offset()
        return offset
    count = dataset.get_num_chunks()
    parts = [-(-size // part) for size, part in zip(spec.shape, spec.chunk, strict=True)]
    if count != max(parts):
        return None
    axis = parts.index(count)
    nbytes = spec.span // count
    place = _Chunks(spec, axis, nbytes)
    if hasattr(dataset, "chunk_iter"):
        dataset.chunk_iter(place.next)
    else:  # an h5py that was built with HDF5 1.10: slower, but there
        any(place.next(dataset.get_chunk_info(i)) for i in range(count))
    return place.first if place.index == count else None


class _Chunks:
    """Follows the chunks of a dataset from the first to the last, or to one that is not where it should be."""

    def __init__(self, spec: DatasetSpec, axis: int, nbytes: int) -> None:
        self.index, self.first = 0, 0
        self._part, self._axis, self._nbytes = spec.chunk or (), axis, nbytes

    def next(self, chunk: Any) -> bool | None:
        """Take the next chunk; a result other than None ends the iteration."""
        if self.index == 0:
            self.first = int(chunk.byte_offset)
        start = tuple(self.index * part if k == self._axis else 0 for k, part in enumerate(self._part))
        place = (chunk.chunk_offset, chunk.byte_offset, chunk.size, chunk.filter_mask)
        if place != (start, self.first + self.index * self._nbytes, self._nbytes, 0):
            return True
        self.index += 1
        return None
