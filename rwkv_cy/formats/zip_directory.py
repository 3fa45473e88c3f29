"""The directory of a zip archive: where each entry has its bytes, stored as they are or deflated.

Only what torch reads is read: one disk, no encryption, the directory at the end; zip64 where it is needed. A comment
after the directory is skipped. Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header) to 4.3.16 (end of
the directory).
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

from rwkv_cy.errors import FormatError
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_TENSORS, FileBytes
from rwkv_cy.formats.zip_entries import DEFLATED, Place, ZipEntry, damaged, locate_all, parse_entries
from rwkv_cy.records import dataclass

__all__ = ["Place", "ZipEntry", "locate", "locate_all", "read_directory", "read_entry"]

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF
_ALL_ONES_16 = 0xFFFF
_ALL_ONES_32 = 0xFFFFFFFF
_MAX_ENTRIES = MAX_TENSORS + 100
#: Deflate makes at most 1032 bytes of one. Weights in which the most part is zero become a few times larger.
_MOST_INFLATED = 64


@dataclass(frozen=True)
class _Directory:
    offset: int
    size: int
    count: int


def read_directory(file: FileBytes) -> dict[str, ZipEntry]:
    """Return the entries of the archive by name, without folders.

    Raises
    ------
    FormatError
        If the directory is missing, damaged, or names an entry twice.
    """
    directory = _find_directory(file)
    if directory.size > MAX_HEADER_BYTES or directory.count > _MAX_ENTRIES:
        raise FormatError(
            f"{file.path}: expected a zip directory of at most {MAX_HEADER_BYTES} bytes and {_MAX_ENTRIES} entries, "
            f"got {directory.size} and {directory.count}"
        )
    data = file.read_at(directory.offset, directory.size)
    parsed = parse_entries(file, data, directory.count, directory.offset)
    inflated = sum(entry.size for entry in parsed.values() if entry.method == DEFLATED)
    if inflated > _MOST_INFLATED * file.size:
        raise damaged(file, f"at most {_MOST_INFLATED} times its size when it is inflated", f"{inflated} bytes")
    starts = sorted(entry.header_offset for entry in parsed.values())
    limits = dict(pairwise([*starts, directory.offset]))
    checked = any(entry.crc for entry in parsed.values())
    for entry in parsed.values():
        entry.limit, entry.checked = limits[entry.header_offset], checked
    return {name: entry for name, entry in parsed.items() if not name.endswith("/")}


def locate(file: FileBytes, entry: ZipEntry) -> Place:
    """Return where the bytes of `entry` are; errors are those of :func:`~rwkv_cy.formats.zip_entries.locate_all`."""
    return locate_all(file, (entry,))[0]


def read_entry(file: FileBytes, entry: ZipEntry, limit: int) -> bytes:
    """Return the bytes of a small entry.

    Raises
    ------
    FormatError
        If it is larger than `limit`, or its checksum differs from the directory.
    """
    place = locate(file, entry)
    if entry.size > limit:
        raise damaged(file, f"zip entry {entry.name!r} of at most {limit} bytes", f"{entry.size}")
    data = (place.data or file).read_at(place.offset, entry.size)
    if entry.checked and zlib.crc32(data) != entry.crc:
        raise damaged(file, f"checksum {entry.crc:08x} of zip entry {entry.name!r}", f"{zlib.crc32(data):08x}")
    return data


def _find_directory(file: FileBytes) -> _Directory:
    end = _find_end(file)
    _, disk, first_disk, count_here, count, size, offset, _ = _END.unpack(file.read_at(end, _END.size))
    if (disk, first_disk, count_here) != (0, 0, count):
        raise damaged(file, "all entries on one disk", f"{count_here} of {count} on disk {disk}")
    limit = end
    locator = end - _LOCATOR64.size
    if locator >= 0 and file.read_at(locator, 4) == b"PK\x06\x07":
        wide, limit = _find_directory64(file, locator)
        for narrow, full in ((count, wide.count), (size, wide.size), (offset, wide.offset)):
            if narrow != full and narrow not in (_ALL_ONES_16, _ALL_ONES_32):
                raise damaged(file, "both ends of the zip directory to agree", f"{narrow} and {full}")
        directory = wide
    else:
        directory = _Directory(offset, size, count)
    if directory.offset + directory.size != limit:
        raise damaged(file, f"a zip directory that ends at {limit}", f"{directory.size} bytes from {directory.offset}")
    return directory


def _find_end(file: FileBytes) -> int:
    """Return where the end record of the directory begins: after it there is a comment of the length that it gives."""
    if file.size < _END.size:
        raise damaged(file, "a zip archive", f"{file.size} bytes")
    start = max(0, file.size - _END.size - _MAX_COMMENT)
    tail = file.read_at(start, file.size - start)
    without_comment = len(tail) - _END.size
    for at in (without_comment, tail.rfind(_END_SIGNATURE, 0, without_comment + len(_END_SIGNATURE))):
        if at >= 0 and tail.startswith(_END_SIGNATURE, at) and _END.unpack_from(tail, at)[-1] == without_comment - at:
            return start + at
    raise damaged(file, "the end of a zip directory at the end of the file", "other bytes")


def _find_directory64(file: FileBytes, locator: int) -> tuple[_Directory, int]:
    _, disk, end, disks = _LOCATOR64.unpack(file.read_at(locator, _LOCATOR64.size))
    if disk or disks != 1 or end + _END64.size != locator:
        raise damaged(file, f"the zip64 end of the directory at {locator - _END64.size}", f"offset {end}")
    signature, length, _, _, disk, first_disk, count_here, count, size, offset = _END64.unpack(
        file.read_at(end, _END64.size)
    )
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or (disk, first_disk, count_here) != (0, 0, count):
        raise damaged(file, "the zip64 end of the directory", "other bytes")
    return _Directory(offset, size, count), end
