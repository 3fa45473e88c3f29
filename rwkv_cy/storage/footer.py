"""The checksum footer: the last page of a file, with checksums of its structure and the mark that it is complete."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.records import dataclass
from rwkv_cy.storage.schema import MAJOR, PAGE

__all__ = ["Footer"]

#: magic, major, minor, complete, CRC of the metadata, file size, metadata size, index offset, index size, index CRC
_FIELDS = struct.Struct("<8sIIIIQQQQI")
_MAGIC = b"RWKVSEAL"
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Footer:
    """The last page of a file.

    Attributes
    ----------
    version : tuple of int
        Major and minor version of the format.
    complete : bool
        False until everything else has been written.
    file_size : int
        Bytes in the file, including the footer.
    metadata_size, metadata_crc : int
        Length of HDF5's own metadata, which is at the beginning of the file; its CRC-32.
    index_offset, index_size, index_crc : int
        Span of the index; its CRC-32.
    """

    version: tuple[int, int]
    complete: bool
    file_size: int
    metadata_size: int
    metadata_crc: int
    index_offset: int
    index_size: int
    index_crc: int

    def pack(self) -> bytes:
        """Return the page."""
        fields = _FIELDS.pack(
            _MAGIC,
            *self.version,
            self.complete,
            self.metadata_crc,
            self.file_size,
            self.metadata_size,
            self.index_offset,
            self.index_size,
            self.index_crc,
        )
        page = fields.ljust(PAGE - _CRC.size, b"\0")
        return page + _CRC.pack(zlib.crc32(page))

    @staticmethod
    def unpack(page: bytes, path: Path) -> Footer:
        """Return the footer in `page`, the last page of the file `path`.

        Raises
        ------
        FormatError
            If it is not a footer, is damaged, or the file was never finished.
        UnsupportedError
            If the file has a newer major version.
        """
        magic, major, minor, complete, *rest = _FIELDS.unpack_from(page)
        if magic != _MAGIC:
            raise FormatError(
                f"{path}: expected a file of rwkv-cy, got an HDF5 file of another kind (without a checksum footer); "
                "name a file that rwkv-cy wrote"
            )
        if _CRC.unpack_from(page, PAGE - _CRC.size)[0] != zlib.crc32(page[: -_CRC.size]):
            raise FormatError(f"{path}: the checksum footer is damaged; copy the file again or convert it again")
        if major > MAJOR:
            raise UnsupportedError(
                f"{path}: expected version {MAJOR} of the format or below, got {major}; update rwkv-cy to read it"
            )
        if major < 1:
            raise FormatError(
                f"{path}: expected version 1 of the format or above, got {major}; convert or save it again"
            )
        if complete != 1:
            raise FormatError(f"{path}: expected a finished file, got one whose writer died; convert or save it again")
        crc, size, metadata_size, offset, index_size, index_crc = rest
        return Footer((major, minor), True, size, metadata_size, crc, offset, index_size, index_crc)
