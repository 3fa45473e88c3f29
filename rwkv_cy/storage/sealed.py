"""Reading of sealed files: the bytes that the seal and the index vouch for. HDF5's library takes no part in it.

A file from a stranger is opened by this code alone: 48 bytes of superblock, the seal, the index, and the checksum of
what HDF5 would read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.kernels.crc32 import crc32
from rwkv_cy.storage.index import MAX_INDEX_BYTES, Entry, unpack_index
from rwkv_cy.storage.schema import (
    BLOCK_BYTES,
    HEADER_PATH,
    INDEX_PATH,
    MAX_DATASETS,
    MAX_HEADER_BYTES,
    PAGE,
    SEAL_PATH,
    SIGNATURE,
    DatasetSpec,
    Progress,
    parameter_name,
)
from rwkv_cy.storage.seal import Seal

__all__ = ["SealedFile"]

#: signature, version, size of offsets, size of lengths, consistency flags, base, extension, end of file, root group
_SUPERBLOCK = struct.Struct("<8sBBBBQQQQ")
#: HDF5's metadata takes about 500 bytes a dataset.
_MAX_METADATA_BYTES = 4096 * MAX_DATASETS


class SealedFile:
    """An open file, checked as far as can be without reading its data.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        The kind that it must be of.

    Attributes
    ----------
    path, absolute : Path
    kind : str
    file : FileBytes
    seal : Seal
    entries : mapping of str to Entry
        The datasets by path, in the file's order; the index and the seal are not among them.
    header : dict
        What the header dataset says.

    Raises
    ------
    FormatError
        If the file is damaged, unfinished, of another kind, or not written by rwkv-cy.
    UnsupportedError
        If it is of a newer major version.
    StorageError
        If the operating system refuses it.
    """

    entries: Mapping[str, Entry]

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.absolute = path.absolute()
        self.kind = kind
        self.file = FileBytes(path)
        try:
            self._check_superblock()
            self.seal = self._read_seal()
            self.check_metadata()
            index = self.file.read_at(self.seal.index_offset, self.seal.index_size)
            if zlib.crc32(index) != self.seal.index_crc:
                raise self._damaged("the index")
            found, self.entries = unpack_index(index, path, self.seal.metadata_size, self.seal.index_offset)
            if found != kind:
                raise UnsupportedError(
                    f"{path}: expected a file of kind {kind!r}, got {found[:40]!r}; name a file of that kind"
                )
            self.header = parse_object(path, "header", self.read_small(HEADER_PATH, MAX_HEADER_BYTES))
        except BaseException:
            self.file.close()
            raise

    def read_small(self, path: str, limit: int) -> bytes:
        """Return the whole of a dataset of bytes, after checking its checksum.

        Raises
        ------
        FormatError
            If there is none of that path, it holds other than bytes, is larger than `limit`, or damaged.
        """
        entry = self.entries.get(path)
        if entry is None or entry.spec.dtype != "u8" or entry.spec.nbytes > limit:
            raise FormatError(
                f"{self.path}: expected at most {limit} bytes in {path}, got "
                + ("no such dataset" if entry is None else f"{entry.spec.nbytes} of type {entry.spec.dtype}")
                + "; convert or save it again"
            )
        raw = self.file.read_at(entry.offset, entry.spec.nbytes)
        if zlib.crc32(raw) != entry.crc32:
            raise self._damaged(path)
        return raw

    def datasets(self) -> list[tuple[DatasetSpec, int]]:
        """Return every dataset of the file and its offset, the index and the seal included."""
        return [
            *((entry.spec, entry.offset) for entry in self.entries.values()),
            (DatasetSpec(INDEX_PATH, "u8", (self.seal.index_size,)), self.seal.index_offset),
            (DatasetSpec(SEAL_PATH, "u8", (PAGE,)), self.seal.file_size - PAGE),
        ]

    def read_array(self, entry: Entry) -> npt.NDArray[Any]:
        """Return a dataset of numbers as a new array; FormatError if its bytes are not those that were written."""
        array = np.empty(entry.spec.shape, STORAGE_TYPES[entry.spec.dtype].array_dtype)
        self.file.read_into_at(entry.offset, array)
        if zlib.crc32(array.data) != entry.crc32:
            raise self._damaged(entry.spec.path)
        return array

    def check_bytes(self, entry: Entry) -> None:
        """Read the bytes of a dataset; FormatError if they are not those that were written."""
        if self.checksum(entry.offset, entry.spec.nbytes) != entry.crc32:
            raise self._damaged(parameter_name(entry.spec.path) or entry.spec.path)

    def check_metadata(self) -> None:
        """Raise FormatError if HDF5's metadata is not what the seal vouches for."""
        if self.checksum(0, self.seal.metadata_size) != self.seal.metadata_crc:
            raise self._damaged("the HDF5 structure")

    def checksum(self, offset: int, size: int, progress: Progress | None = None) -> int:
        """Return the CRC-32 of a span of the file, read block by block."""
        buffer = np.empty(min(size, BLOCK_BYTES), np.uint8)
        crc = 0
        for start in range(0, size, BLOCK_BYTES):
            block = buffer[: min(BLOCK_BYTES, size - start)]
            self.file.read_into_at(offset + start, block)
            crc = crc32(block.data, crc)
            if progress is not None:
                progress(block.size)
        return crc

    def close(self) -> None:
        """Close the file; arrays over its map stay valid."""
        self.file.close()

    def __enter__(self) -> SealedFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: {what}: expected the checksum that was written with it, got another: the file is damaged; "
            "copy it or convert it again"
        )

    def _check_superblock(self) -> None:
        size = self.file.size
        start = self.file.read_at(0, min(size, _SUPERBLOCK.size))
        if start[:8] != SIGNATURE[: len(start)]:
            raise FormatError(f"{self.path}: expected an HDF5 file, got one that begins with {start[:8]!r}; convert it")
        if size < _SUPERBLOCK.size:
            raise self._cut(2 * PAGE)
        _, version, offsets, lengths, flags, base, _, end, _ = _SUPERBLOCK.unpack(start)
        # What other programs write is often shorter than the shortest of ours: it is of another kind, and not cut.
        if (version, offsets, lengths, base) != (3, 8, 8, 0) or end == size < 2 * PAGE:
            raise FormatError(
                f"{self.path}: expected a file of rwkv-cy, got an HDF5 file of another kind "
                f"(superblock version {version}); name a file that rwkv-cy wrote"
            )
        if flags != 0:
            raise FormatError(
                f"{self.path}: expected a closed file, got one that an HDF5 writer left open; convert or save it again"
            )
        if size < max(end, 2 * PAGE):
            raise self._cut(max(end, 2 * PAGE))
        if end < size:
            raise FormatError(
                f"{self.path}: expected {end} bytes, got {size}: something was added behind the end; copy it again"
            )

    def _cut(self, expected: int) -> FormatError:
        return FormatError(
            f"{self.path}: expected {expected} bytes or more, got {self.file.size}: it was cut short; copy it again"
        )

    def _read_seal(self) -> Seal:
        size = self.file.size
        seal = Seal.unpack(self.file.read_at(size - PAGE, PAGE), self.path)
        index_end = seal.index_offset + seal.index_size
        if (
            seal.file_size != size
            or not _SUPERBLOCK.size <= seal.metadata_size <= min(seal.index_offset, _MAX_METADATA_BYTES)
            or seal.index_size > MAX_INDEX_BYTES
            or index_end > size - PAGE
        ):
            raise FormatError(
                f"{self.path}: expected a seal that fits the file of {size} bytes, got one that does not; "
                "convert or save it again"
            )
        return seal
