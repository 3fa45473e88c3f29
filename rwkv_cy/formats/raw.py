"""Tensors of one file that need no decoding, as a ParameterSource."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.dtypes import storage_type
from rwkv_cy.errors import FormatError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.metadata import own_metadata
from rwkv_cy.formats.strided import gather, read_strided, span
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import Advance, TensorInfo, check_buffer

if TYPE_CHECKING:
    import numpy.typing as npt

    from rwkv_cy.formats.inflated import InflatedBytes
    from rwkv_cy.formats.zip_entries import Place

__all__ = ["RawSource", "RawTensor"]

#: Tied matrices share their bytes. Many tensors over the same bytes would make a small file take days to read; so would
#: many that are parts of one deflated entry, if each begins before the one that was read last.
_MOST_SHARED = 4
#: Most bytes between the first and last element of a deflated tensor in another order: all of them are inflated again
#: for each block that is read.
_MOST_REORDERED = 64 << 20


@dataclass(frozen=True)
class RawTensor:
    """A tensor, and where its first element is in the file.

    Attributes
    ----------
    info : TensorInfo
    offset : int
        The first byte.
    strides : tuple of int, optional
        Elements from one to the next along each axis, not negative; None where they follow in C order.
    data : InflatedBytes, optional
        What `offset` counts in; None for the file.
    """

    info: TensorInfo
    offset: int
    strides: tuple[int, ...] | None = None
    data: InflatedBytes | None = None

    @property
    def end(self) -> int:
        """The byte after the last element."""
        if self.strides is None:
            return self.offset + self.info.source_nbytes
        return self.offset + span(self.info.shape, self.strides) * storage_type(self.info.dtype).itemsize


class RawSource:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` over tensors whose bytes need no decoding.

    Parameters
    ----------
    file : FileBytes
        The file; closed with the source.
    format : str
        Name of the format.
    tensors : mapping of str to RawTensor
        By canonical name, in the file's order.
    metadata : mapping of str to str
        Other metadata of the file; keys that only a reader may set are dropped.
    checksums : mapping of str to Place, optional
        The bytes that hold a tensor, with their CRC-32, by its name; tensors that share their bytes have the same one.
    left_out : mapping of str to str, optional
        Tensors of the file that no model can have, described.

    Raises
    ------
    FormatError
        If a tensor exceeds the file, too many share their bytes or a deflated entry, or a large one is deflated and not
        in C order.
    """

    def __init__(
        self,
        file: FileBytes,
        format: str,  # noqa: A002 (the attribute of ParameterSource)
        tensors: Mapping[str, RawTensor],
        metadata: Mapping[str, str],
        checksums: Mapping[str, Place] | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        total, file_size = 0, file.size
        for name, tensor in tensors.items():
            size = file_size if tensor.data is None else tensor.data.size
            if tensor.strides is None:
                nbytes = tensor.info.source_nbytes
                end = tensor.offset + nbytes
            else:
                nbytes, end = tensor.info.nbytes, tensor.end
            total += nbytes
            if tensor.offset < 0 or end > size:
                raise FormatError(
                    f"{file.path}: {name}: expected its bytes within the {size} of the file, got "
                    f"{tensor.offset} to {tensor.end}; the file is cut short or damaged: download or copy it again"
                )
        parts = Counter(tensor.data for tensor in tensors.values() if tensor.data)
        if max(parts.values(), default=0) > _MOST_SHARED:
            raise FormatError(
                f"{file.path}: expected at most {_MOST_SHARED} tensors in one deflated entry of the archive, got "
                f"{max(parts.values())}; save the weights anew, each with its own storage"
            )
        for name, tensor in tensors.items() if parts else ():
            if tensor.data and tensor.strides is not None and tensor.end - tensor.offset > _MOST_REORDERED:
                raise FormatError(
                    f"{file.path}: {name}: expected a deflated tensor in C order, or of at most {_MOST_REORDERED} "
                    f"bytes, got {tensor.end - tensor.offset} in another order; unpack the archive, and pack it again "
                    "without compression, as zip -0 -r does"
                )
        held = file_size + sum(data.size for data in parts)
        if total > _MOST_SHARED * held:
            raise FormatError(
                f"{file.path}: expected tensors with bytes of their own, got {total} bytes of them in a file of "
                f"{held}; save the weights anew, each with its own storage"
            )
        self.path = file.path
        self.format = format
        self.metadata: Mapping[str, str] = own_metadata(metadata)
        self.left_out: Mapping[str, str] = dict(left_out or {})
        self._file = file
        self._tensors = dict(tensors)
        self._checksums = dict(checksums or {})
        self._checked: set[Place] = set()

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The file, as it was opened."""
        return (self._file.identity,)

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the file's order."""
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        return self._tensors[name].info

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` (1-D, of the tensor's array dtype) with elements from `start`, by positioned reads."""
        tensor = self._tensors[name]
        check_buffer(tensor.info, buffer, start)
        self._read(tensor, buffer, start)

    def _read(self, tensor: RawTensor, buffer: npt.NDArray[Any], start: int) -> None:
        """Fill `buffer`, whose dtype is that of the bytes in the file."""
        data = tensor.data or self._file
        if tensor.strides is None:
            data.read_into_at(tensor.offset + start * buffer.itemsize, buffer)
            return
        nbytes = tensor.end - tensor.offset
        mapped = None if tensor.data else self._file.view(tensor.offset, np.dtype(np.uint8), (nbytes,))
        if mapped is None:

            def read(first: int, elements: npt.NDArray[Any]) -> None:
                data.read_into_at(tensor.offset + first * elements.itemsize, elements)

            gather(read, tensor.info.shape, tensor.strides, buffer, start)
        else:
            steps = tuple(buffer.itemsize * stride for stride in tensor.strides)
            read_strided(np.ndarray(tensor.info.shape, buffer.dtype, mapped.data, strides=steps), buffer, start)
            self._file.check()

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over a memory map.

        None where it is misaligned, not in C order, or deflated.
        """
        tensor = self._tensors[name]
        if tensor.strides is not None or tensor.data is not None:
            return None
        dtype: np.dtype[Any] = storage_type(tensor.info.dtype).array_dtype
        return self._file.view(tensor.offset, dtype, tensor.info.shape)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Read the bytes that the checksum of a tensor covers, and compare it; False where there is none.

        Raises
        ------
        FormatError
            If the checksum differs.
        """
        place = self._checksums.get(name)
        if place is None:
            return False
        if place not in self._checked:
            data = place.data
            crc = self._file.crc32(place.offset, place.size, advance) if data is None else data.crc32(advance)
            if crc != place.crc32:
                raise FormatError(
                    f"{self.path}: {name}: expected bytes with the checksum {place.crc32:08x}, got {crc:08x}; "
                    "the file is damaged: download or copy it again"
                )
            self._checked.add(place)
        return True

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of the tensor's bytes; None if the file has none of them alone, in C order."""
        place, tensor = self._checksums.get(name), self._tensors[name]
        if place is None or tensor.strides is not None:
            return None
        own = (tensor.offset, tensor.info.source_nbytes, tensor.data)
        return place.crc32 if own == (place.offset, place.size, place.data) else None

    def check(self) -> None:
        """Raise FormatError if the file has been truncated since it was opened."""
        self._file.check()

    def close(self) -> None:
        """Close the file. Arrays from :meth:`view` stay valid."""
        self._file.close()

    def __enter__(self) -> RawSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
