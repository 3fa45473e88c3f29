"""The directory of a zip archive: where each entry has its bytes, stored as they are or deflated.

Only what torch reads is read: one disk, no encryption, the directory at the end; zip64 where it is needed. A comment
after the directory is skipped. Format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header) to 4.3.16 (end of
the directory).
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_TENSORS, FileBytes, decode_name
from rwkv_cy.formats.inflated import InflatedBytes
from rwkv_cy.records import dataclass

__all__ = ["Place", "ZipEntry", "locate", "read_directory", "read_entry"]

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = struct.Struct("<4s3L")
_DESCRIPTOR64 = struct.Struct("<4sL2Q")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF
_ALL_ONES_16 = 0xFFFF
_ALL_ONES_32 = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_FLAG_ENCRYPTED = 1 << 0
_FLAG_SIZES_FOLLOW = 1 << 3
_MAX_ENTRIES = MAX_TENSORS + 100
_STORED, _DEFLATED = 0, 8
#: Deflate makes at most 1032 bytes of one. Weights in which the most part is zero become a few times larger.
_MOST_INFLATED = 64


@dataclass
class ZipEntry:
    """One entry of the central directory.

    `stored_size` differs from `size` where it is compressed. All its bytes are between `header_offset` and `limit`,
    where the next entry or the directory begins: known when all have been read. `checked` tells whether `crc` is a
    checksum: torch can be set to write 0 for every entry (torch.serialization.set_crc32_options).
    """

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    stored_size: int
    header_offset: int
    limit: int = 0
    checked: bool = True


@dataclass(frozen=True)
class Place:
    """Where bytes begin: in the file, or in an inflated entry of it."""

    offset: int
    data: InflatedBytes | None = None


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
    parsed: dict[str, ZipEntry] = {}
    position = 0
    for _ in range(directory.count):
        entry, position = _parse_entry(file, data, position)
        if entry.header_offset + _LOCAL.size > directory.offset:
            raise _damaged(file, f"entry {entry.name!r} before the directory", f"offset {entry.header_offset}")
        if entry.name in parsed:
            raise _damaged(file, "each name once in the zip directory", f"{entry.name!r} twice")
        parsed[entry.name] = entry
    if position != len(data):
        raise _damaged(file, f"{directory.count} entries in the zip directory", f"{len(data) - position} more bytes")
    inflated = sum(entry.size for entry in parsed.values() if entry.method == _DEFLATED)
    if inflated > _MOST_INFLATED * file.size:
        raise _damaged(file, f"at most {_MOST_INFLATED} times its size when it is inflated", f"{inflated} bytes")
    starts = sorted(entry.header_offset for entry in parsed.values())
    limits = dict(pairwise([*starts, directory.offset]))
    checked = any(entry.crc for entry in parsed.values())
    for entry in parsed.values():
        entry.limit, entry.checked = limits[entry.header_offset], checked
    return {name: entry for name, entry in parsed.items() if not name.endswith("/")}


def locate(file: FileBytes, entry: ZipEntry) -> Place:
    """Return where the bytes of `entry` are.

    Raises
    ------
    UnsupportedError
        If it is encrypted, or compressed in another way than by Deflate.
    FormatError
        If its local header or descriptor differs from the directory, or it overlaps the next entry.
    """
    if entry.flags & _FLAG_ENCRYPTED:
        raise UnsupportedError(f"{file.path}: expected a plain zip entry {entry.name!r}, got an encrypted one")
    if entry.method not in (_STORED, _DEFLATED):
        raise UnsupportedError(
            f"{file.path}: expected zip entry {entry.name!r} stored or deflated, got it compressed (method "
            f"{entry.method}); unpack the archive and pack it again without compression, as zip -0 -r does"
        )
    if entry.method == _STORED and entry.stored_size != entry.size:
        raise _damaged(file, f"zip entry {entry.name!r} of one size", f"{entry.stored_size} and {entry.size}")
    header = file.read_at(entry.header_offset, _LOCAL.size + len(entry.raw_name))
    signature, _, flags, method, _, _, _, stored_size, size, name_length, extra_length = _LOCAL.unpack_from(header)
    if signature != b"PK\x03\x04" or method != entry.method or flags & _FLAG_ENCRYPTED:
        raise _damaged(file, f"the local header of zip entry {entry.name!r}", "other bytes")
    if name_length != len(entry.raw_name) or header[_LOCAL.size :] != entry.raw_name:
        raise _damaged(file, f"zip entry {entry.name!r} under one name", "another in its local header")
    known = (_ALL_ONES_32, 0) if flags & _FLAG_SIZES_FOLLOW else (_ALL_ONES_32,)
    if size not in (entry.size, *known) or stored_size not in (entry.stored_size, *known):
        raise _damaged(file, f"zip entry {entry.name!r} of {entry.size} bytes", f"{size} in its local header")
    offset = int(entry.header_offset + _LOCAL.size + name_length + extra_length)
    end = offset + entry.stored_size
    if end > entry.limit:
        raise _damaged(file, f"zip entry {entry.name!r} to end at {entry.limit} at most", f"its end at {end}")
    if flags & _FLAG_SIZES_FOLLOW and entry.stored_size:
        _check_descriptor(file, entry, end)
    if entry.method == _STORED:
        return Place(offset)
    return Place(0, InflatedBytes(file, entry.name, offset, entry.stored_size, entry.size))


def read_entry(file: FileBytes, entry: ZipEntry, limit: int) -> bytes:
    """Return the bytes of a small entry.

    Raises
    ------
    FormatError
        If it is larger than `limit`, or its checksum differs from the directory.
    """
    place = locate(file, entry)
    if entry.size > limit:
        raise _damaged(file, f"zip entry {entry.name!r} of at most {limit} bytes", f"{entry.size}")
    data = (place.data or file).read_at(place.offset, entry.size)
    if entry.checked and zlib.crc32(data) != entry.crc:
        raise _damaged(file, f"checksum {entry.crc:08x} of zip entry {entry.name!r}", f"{zlib.crc32(data):08x}")
    return data


def _damaged(file: FileBytes, expected: str, got: str) -> FormatError:
    return FormatError(
        f"{file.path}: expected {expected}, got {got}; "
        "the zip archive is cut short or damaged: download or copy it again"
    )


def _find_directory(file: FileBytes) -> _Directory:
    end = _find_end(file)
    _, disk, first_disk, count_here, count, size, offset, _ = _END.unpack(file.read_at(end, _END.size))
    if (disk, first_disk, count_here) != (0, 0, count):
        raise _damaged(file, "all entries on one disk", f"{count_here} of {count} on disk {disk}")
    limit = end
    locator = end - _LOCATOR64.size
    if locator >= 0 and file.read_at(locator, 4) == b"PK\x06\x07":
        wide, limit = _find_directory64(file, locator)
        for narrow, full in ((count, wide.count), (size, wide.size), (offset, wide.offset)):
            if narrow != full and narrow not in (_ALL_ONES_16, _ALL_ONES_32):
                raise _damaged(file, "both ends of the zip directory to agree", f"{narrow} and {full}")
        directory = wide
    else:
        directory = _Directory(offset, size, count)
    if directory.offset + directory.size != limit:
        raise _damaged(file, f"a zip directory that ends at {limit}", f"{directory.size} bytes from {directory.offset}")
    return directory


def _find_end(file: FileBytes) -> int:
    """Return where the end record of the directory begins: after it there is a comment of the length that it gives."""
    if file.size < _END.size:
        raise _damaged(file, "a zip archive", f"{file.size} bytes")
    start = max(0, file.size - _END.size - _MAX_COMMENT)
    tail = file.read_at(start, file.size - start)
    without_comment = len(tail) - _END.size
    for at in (without_comment, tail.rfind(_END_SIGNATURE, 0, without_comment + len(_END_SIGNATURE))):
        if at >= 0 and tail.startswith(_END_SIGNATURE, at) and _END.unpack_from(tail, at)[-1] == without_comment - at:
            return start + at
    raise _damaged(file, "the end of a zip directory at the end of the file", "other bytes")


def _find_directory64(file: FileBytes, locator: int) -> tuple[_Directory, int]:
    _, disk, end, disks = _LOCATOR64.unpack(file.read_at(locator, _LOCATOR64.size))
    if disk or disks != 1 or end + _END64.size != locator:
        raise _damaged(file, f"the zip64 end of the directory at {locator - _END64.size}", f"offset {end}")
    signature, length, _, _, disk, first_disk, count_here, count, size, offset = _END64.unpack(
        file.read_at(end, _END64.size)
    )
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or (disk, first_disk, count_here) != (0, 0, count):
        raise _damaged(file, "the zip64 end of the directory", "other bytes")
    return _Directory(offset, size, count), end


def _parse_entry(file: FileBytes, data: bytes, position: int) -> tuple[ZipEntry, int]:
    if position + _CENTRAL.size > len(data):
        raise _damaged(file, "another entry of the zip directory", "its end")
    fields = _CENTRAL.unpack_from(data, position)
    signature, _, _, flags, method, _, _, crc, stored_size, size = fields[:10]
    name_length, extra_length, comment_length, disk, _, _, header_offset = fields[10:]
    name_start = position + _CENTRAL.size
    extra_start = name_start + name_length
    end = extra_start + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(data):
        raise _damaged(file, "another entry of the zip directory", "other bytes")
    if disk:
        raise _damaged(file, "one disk", f"disk {disk}")
    raw_name = data[name_start:extra_start]
    name = _entry_name(file, raw_name)
    extra = data[extra_start : extra_start + extra_length]
    wide = _zip64_values(file, name, extra, [size, stored_size, header_offset])
    return ZipEntry(name, raw_name, flags, method, crc, wide[0], wide[1], wide[2]), end


def _entry_name(file: FileBytes, raw: bytes) -> str:
    if raw.endswith(b"/"):
        return decode_name(file.path, raw[:-1]) + "/"
    return decode_name(file.path, raw)


def _zip64_values(file: FileBytes, name: str, extra: bytes, values: list[int]) -> list[int]:
    """Replace values that are all ones with the 64-bit values of the extra field, which are in the same order."""
    missing = [i for i, value in enumerate(values) if value == _ALL_ONES_32]
    if not missing:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _ZIP64_EXTRA and length >= 8 * len(missing) and position + length <= len(extra):
            wide = struct.unpack_from(f"<{len(missing)}Q", extra, position)
            result = list(values)
            for i, value in zip(missing, wide, strict=True):
                result[i] = value
            return result
        position += length
    raise _damaged(file, f"the 64-bit sizes of zip entry {name!r}", "none")


def _check_descriptor(file: FileBytes, entry: ZipEntry, end: int) -> None:
    """Refuse an entry that is not followed by its checksum and sizes: its offset or size is wrong."""
    expected = (b"PK\x07\x08", entry.crc, entry.stored_size, entry.size)
    for layout in (_DESCRIPTOR, _DESCRIPTOR64):
        if end + layout.size <= entry.limit and layout.unpack(file.read_at(end, layout.size)) == expected:
            return
    raise _damaged(file, f"the sizes of zip entry {entry.name!r} behind its bytes", "others or none")
