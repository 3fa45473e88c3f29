"""Repairs of damaged files: lengths and checksums are made to fit, so that damage reaches what is behind them."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace

from formats.make_pth import Entry, Zip

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_DESCRIPTOR = b"PK\x07\x08"
_LOCAL_FIELDS = struct.Struct("<4s5H3L2H")
_CENTRAL_FIELDS = struct.Struct("<4s6H3L5H2L")
_DEFLATED = 8
#: More is not inflated to learn its size.
_MOST_INFLATED = 1 << 20

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PAGE = 4096
_FOOTER = struct.Struct("<8sIIIIQQQQI")
_END_OF_FILE = 40  # of the superblock
_ENTRY = re.compile(
    rb'"dtype":"(\w+)","shape":\[([0-9,]{1,40})\](?:,"(?:matrix|transposed)_shape":\[[0-9,]+\])?'
    rb',"offset":([0-9]{1,18}),"crc32":([0-9]+)'
)
_SIZES = {b"u8": 1, b"q8": 1, b"q6": 1, b"q4": 1, b"q4n": 1, b"bf12": 1, b"f16": 2, b"bf16": 2, b"f32": 4, b"f64": 8}

#: A string, or a bracket outside of strings.
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
_LINE = re.compile(rb"([0-9]+ )(b?)('.*'|\".*\") [0-9]+(\r?)")


def zip_archive(data: bytes) -> bytes:
    """Return an archive of the entries whose local headers are found, with sizes, offsets and checksums that fit.

    Entries without checksums stay without them.
    """
    starts = [match.start() for match in re.finditer(re.escape(_LOCAL), data)]
    directory = data.find(_CENTRAL)
    if not starts or directory < starts[-1]:
        return data
    checked = any(_checksums(data, directory))
    entries = []
    for start, limit in zip(starts, [*starts[1:], directory], strict=True):
        if start + _LOCAL_FIELDS.size > limit:
            continue
        _, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL_FIELDS.unpack_from(data, start)
        begin = start + _LOCAL_FIELDS.size + name_size
        end = data.find(_DESCRIPTOR, begin, limit) if flags & 8 else -1
        content = data[begin + extra_size : limit if end < 0 else end]
        entry = Entry(data[begin - name_size : begin], content, flags=flags, method=method, local_method=method)
        entries.append(_sized(entry) if checked else replace(_sized(entry), crc=0))
    return Zip(entries, wide=b"PK\x06\x06" in data).to_bytes()


def _checksums(data: bytes, position: int) -> list[int]:
    """Return the checksums of the entries of a directory, as far as it can be read."""
    found = []
    while data.startswith(_CENTRAL, position) and position + _CENTRAL_FIELDS.size <= len(data):
        fields = _CENTRAL_FIELDS.unpack_from(data, position)
        found.append(fields[7])
        position += _CENTRAL_FIELDS.size + sum(fields[10:13])
    return found


def _sized(entry: Entry) -> Entry:
    """Return an entry with the size and the checksum of what it inflates to."""
    if entry.method != _DEFLATED:
        return entry
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = machine.decompress(entry.data, _MOST_INFLATED)
    except zlib.error:
        whole = b""
    return replace(entry, size=len(whole), stored_size=len(entry.data), crc=zlib.crc32(whole))


def safetensors(data: bytes) -> bytes:
    """Return the file with the length of its header, which ends with the bracket that closes the first one."""
    depth = 0
    for match in _BRACKET.finditer(data, 8):
        if match[0] in b"{}":
            depth += 1 if match[0] == b"{" else -1
        if depth <= 0:
            size = match.end() - 8
            padding = len(data) - len(data[match.end() :].lstrip(b" ")) - match.end()
            return (size + padding).to_bytes(8, "little") + data[8:]
    return data


def model_file(data: bytes) -> bytes:
    """Return the file with checksums that fit what it holds by now, as far as footer and index can be read."""
    raw = bytearray(data)
    if len(raw) < 2 * _PAGE:
        return data
    start = len(raw) - _PAGE
    magic, major, minor, complete, _, _, metadata, offset, length, _ = _FOOTER.unpack_from(raw, start)
    struct.pack_into("<Q", raw, _END_OF_FILE, len(raw))
    if offset + length <= len(raw):
        index = bytes(raw[offset : offset + length])
        for entry in reversed(list(_ENTRY.finditer(index))):
            new = b"%d" % zlib.crc32(raw[int(entry[3]) : int(entry[3]) + _nbytes(entry)])
            index = index[: entry.start(4)] + new + index[entry.end(4) :]
        index = index.rstrip().ljust(length)
        if len(index) == length:
            raw[offset : offset + length] = index
    sums = zlib.crc32(raw[:metadata]), zlib.crc32(raw[offset : offset + length])
    _FOOTER.pack_into(raw, start, magic, major, minor, complete, sums[0], len(raw), metadata, offset, length, sums[1])
    struct.pack_into("<I", raw, len(raw) - 4, zlib.crc32(raw[start:-4]))
    return bytes(raw)


def _nbytes(entry: re.Match[bytes]) -> int:
    count = _SIZES.get(entry[1], 0)
    for size in entry[2].split(b","):
        count *= int(size or 0)
    return min(count, 1 << 32)


def by_content(data: bytes) -> bytes:
    """Return the file repaired as what its first bytes say that it is."""
    if data.startswith(_SIGNATURE):
        return model_file(data)
    return zip_archive(data) if data.startswith(_LOCAL) else safetensors(data)


def vocabulary(data: bytes) -> bytes:
    """Return a vocabulary in text with the length of each token that has no escapes."""

    def counted(match: re.Match[bytes]) -> bytes:
        if b"\\" in match[3]:
            return match[0]
        return match[1] + match[2] + match[3] + b" %d" % (len(match[3]) - 2) + match[4]

    return b"\n".join(_LINE.sub(counted, line) for line in data.split(b"\n"))
