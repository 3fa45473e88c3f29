"""Zip archives of uncompressed entries as torch writes them, from the first byte to the last: aligned, with CRC-32s.

The checksum of an entry follows its data in a descriptor, so that nothing is written twice. Numbers that need 64 bits
are in zip64 fields.

Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header) to 4.3.16 (end of the directory).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from rwkv_cy.files.blocks import Block, Summed
from rwkv_cy.formats.writers.base import ReadTensor, StoredTensor, TargetFile
from rwkv_cy.records import dataclass

__all__ = ["ALIGNMENT", "ZIP_SIGNATURE", "ZipItem", "zip_file"]

#: Alignment of the data of each entry, by which torch maps them.
ALIGNMENT = 64
#: What an archive begins with: the local header of an entry.
ZIP_SIGNATURE = b"PK\x03\x04"
#: What stands for a number that is in a zip64 field, and the first number that has to be.
MARK = LARGE = 0xFFFF_FFFF

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
#: Sizes and checksum follow the data, and names are UTF-8.
_FLAGS = 1 << 3 | 1 << 11
#: Version of the format that has zip64.
_VERSION = 45
#: 1 January 1980, the first date that a zip archive can have.
_DATE = 1 << 5 | 1
#: Extra fields: torch's padding, and zip64.
_PADDING_ID, _ZIP64_ID = b"FB", 1


@dataclass(frozen=True)
class ZipItem:
    """One entry.

    Attributes
    ----------
    name : str
    size : int
        Bytes.
    blocks : callable
        Given what reads tensors, yields the bytes in order; a :class:`~rwkv_cy.files.blocks.Summed` has their checksum.
    """

    name: str
    size: int
    blocks: Callable[[ReadTensor], Iterable[bytes | memoryview] | Summed]

    @classmethod
    def of_bytes(cls, name: str, data: bytes) -> ZipItem:
        """Return an entry of bytes in memory."""
        return cls(name, len(data), lambda read: (data,))

    @classmethod
    def of_tensor(cls, name: str, tensor: StoredTensor) -> ZipItem:
        """Return an entry of the numbers of a tensor."""
        return cls(name, tensor.nbytes, lambda read: read(tensor))


@dataclass(frozen=True)
class _Place:
    """An entry and where it is in the archive."""

    item: ZipItem
    name: bytes
    offset: int
    padding: int

    @property
    def large(self) -> bool:
        return self.item.size >= LARGE

    @property
    def header_size(self) -> int:
        """Bytes before the data."""
        return _LOCAL.size + len(self.name) + (20 if self.large else 0) + 4 + self.padding

    @property
    def end(self) -> int:
        """The byte after the descriptor."""
        return self.offset + self.header_size + self.item.size + (24 if self.large else 16)

    def header(self) -> bytes:
        """Return the local header; sizes and checksum follow the data."""
        sizes = struct.pack("<2H2Q", _ZIP64_ID, 16, 0, 0) if self.large else b""
        extra = sizes + _PADDING_ID + struct.pack("<H", self.padding) + b"Z" * self.padding
        version = _VERSION if self.large else 0
        fields = (ZIP_SIGNATURE, version, _FLAGS, 0, 0, _DATE, 0, *self._narrow, len(self.name), len(extra))
        return _LOCAL.pack(*fields) + self.name + extra

    @property
    def _narrow(self) -> tuple[int, int]:
        return (MARK, MARK) if self.large else (0, 0)

    def descriptor(self, crc: int) -> bytes:
        """Return what follows the data."""
        size = self.item.size
        return struct.pack("<4sL2Q" if self.large else "<4s3L", b"PK\x07\x08", crc, size, size)

    def central(self, crc: int) -> bytes:
        """Return the entry of the directory."""
        size, offset = self.item.size, self.offset
        wide = [size, size] if self.large else []
        if offset >= LARGE:
            wide.append(offset)
        extra = struct.pack(f"<2H{len(wide)}Q", _ZIP64_ID, 8 * len(wide), *wide) if wide else b""
        version = _VERSION if wide else 0
        small = MARK if self.large else size
        fields = (b"PK\x01\x02", version, version, _FLAGS, 0, 0, _DATE, crc, small, small, len(self.name), len(extra))
        return _CENTRAL.pack(*fields, 0, 0, 0, 0, _field(offset)) + self.name + extra


def zip_file(name: str, folder: str, items: Sequence[ZipItem]) -> TargetFile:
    """Return an archive of these entries.

    Parameters
    ----------
    name : str
        Of the file.
    folder : str
        In front of the names of all entries.
    items : sequence of ZipItem
    """
    places: list[_Place] = []
    position = 0
    for item in items:
        place = _Place(item, f"{folder}/{item.name}".encode(), position, 0)
        place = _Place(item, place.name, position, -(position + place.header_size) % ALIGNMENT)
        places.append(place)
        position = place.end
    directory = sum(len(place.central(0)) for place in places)
    size = position + directory + _END64.size + _LOCATOR64.size + _END.size

    def blocks(read: ReadTensor) -> Iterator[Block]:
        checksums = []
        before: Callable[[], bytes] = bytes
        for place in places:
            yield partial(_between, before, place)
            content = place.item.blocks(read)
            summed = content if isinstance(content, Summed) else Summed(content)
            yield from summed
            before = partial(_descriptor, place, summed)
            checksums.append(summed)
        yield before
        yield partial(_directory, places, checksums)
        yield _end(len(places), directory, position)

    return TargetFile(name, size, blocks)


def _descriptor(place: _Place, content: Summed) -> bytes:
    return place.descriptor(content.crc32)


def _between(before: Callable[[], bytes], place: _Place) -> bytes:
    """Return what is between two entries: what follows the first, and the header of the second."""
    return before() + place.header()


def _directory(places: Sequence[_Place], contents: Sequence[Summed]) -> bytes:
    return b"".join(place.central(content.crc32) for place, content in zip(places, contents, strict=True))


def _end(count: int, size: int, offset: int) -> bytes:
    """Return the records after the directory."""
    end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size, offset)
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, offset + size, 1)
    entries = min(count, 0xFFFF)
    return end64 + locator + _END.pack(b"PK\x05\x06", 0, 0, entries, entries, _field(size), _field(offset), 0)


def _field(number: int) -> int:
    """Return what a field of 32 bits holds of a number that may be in a zip64 field."""
    return MARK if number >= LARGE else number
