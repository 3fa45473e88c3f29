"""Entries of a zip archive: what the directory says of each, and where its bytes are.

The archive of a large checkpoint has thousands: compiled, they take a tenth of the time.
"""

from cpython.bytes cimport PyBytes_AsString
from cpython.unicode cimport PyUnicode_DecodeASCII
from posix.types cimport off_t
from posix.unistd cimport pread

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_NAME_BYTES, decode_name
from rwkv_cy.formats.inflated import InflatedBytes

__all__ = ["DEFLATED", "LOCAL_HEADER_BYTES", "Place", "ZipEntry", "damaged", "locate_all", "parse_entries"]

#: Bytes of the fixed part of an entry in the directory, and of one in front of its data.
cdef Py_ssize_t _CENTRAL_BYTES = 46, _LOCAL_BYTES = 30
#: Bytes of the sizes behind an entry's data: of 32 bits, and of 64.
cdef Py_ssize_t _DESCRIPTOR_BYTES = 16, _DESCRIPTOR64_BYTES = 24
cdef unsigned int _CENTRAL_SIGNATURE = 0x02014B50, _LOCAL_SIGNATURE = 0x04034B50, _DESCRIPTOR_SIGNATURE = 0x08074B50
cdef unsigned int _ALL_ONES = 0xFFFFFFFF
cdef unsigned int _ZIP64_EXTRA = 1, _FLAG_ENCRYPTED = 1 << 0, _FLAG_SIZES_FOLLOW = 1 << 3
cdef unsigned int _STORED = 0, _DEFLATED = 8
cdef Py_ssize_t _MAX_NAME = MAX_NAME_BYTES

cdef enum:
    #: Bytes read at once: the sizes behind an entry, and the local header of the next one with its name.
    _AHEAD = 256

DEFLATED = _DEFLATED
LOCAL_HEADER_BYTES = _LOCAL_BYTES

ctypedef unsigned long long Offset


cdef class ZipEntry:
    """One entry of the central directory.

    `stored_size` differs from `size` where it is compressed. All its bytes are between `header_offset` and `limit`,
    where the next entry or the directory begins: known when all have been read. `checked` tells whether `crc` is a
    checksum: torch can be set to write 0 for every entry (torch.serialization.set_crc32_options).
    """

    cdef readonly str name
    cdef readonly bytes raw_name
    cdef readonly unsigned int flags, method, crc
    cdef readonly Offset size, stored_size, header_offset
    cdef public Offset limit
    cdef public bint checked


cdef class Place:
    """The bytes of a storage: where they begin, in the file or in a deflated entry of it.

    `size` is that of the whole entry (0: unknown), and `crc32` its checksum (None: it has none). A place equals itself
    only: tensors that share a storage share its place.
    """

    cdef readonly Offset offset, size
    cdef readonly object data, crc32

    def __init__(self, Offset offset, data=None, Offset size=0, crc32=None):
        self.offset = offset
        self.data = data
        self.size = size
        self.crc32 = crc32

    def __repr__(self):
        return f"Place(offset={self.offset}, data={self.data!r}, size={self.size}, crc32={self.crc32})"


def damaged(file, expected, got):
    """Return the error of a damaged archive."""
    return FormatError(
        f"{file.path}: expected {expected}, got {got}; "
        "the zip archive is cut short or damaged: download or copy it again"
    )


# The directory


def parse_entries(file, bytes data not None, Py_ssize_t count, Offset end):
    """Return `count` entries of the directory `data` by name, folders among them; their limits are not known yet.

    Parameters
    ----------
    file : FileBytes
    data : bytes
        The directory, which has no other bytes.
    count : int
    end : int
        Where the entries end in the file: none begins behind it.

    Raises
    ------
    FormatError
        If an entry is damaged, or named twice.
    """
    cdef const unsigned char *start = <const unsigned char *> PyBytes_AsString(data)
    cdef Py_ssize_t position = 0, size = len(data)
    cdef dict parsed = {}
    cdef ZipEntry entry
    for _ in range(count):
        entry = _parse_entry(file, start, size, &position)
        if entry.header_offset > end or end - entry.header_offset < <Offset> _LOCAL_BYTES:
            raise damaged(file, f"entry {entry.name!r} before the directory", f"offset {entry.header_offset}")
        if entry.name in parsed:
            raise damaged(file, "each name once in the zip directory", f"{entry.name!r} twice")
        parsed[entry.name] = entry
    if position != size:
        raise damaged(file, f"{count} entries in the zip directory", f"{size - position} more bytes")
    return parsed


cdef ZipEntry _parse_entry(object file, const unsigned char *data, Py_ssize_t size, Py_ssize_t *position):
    """Return the entry at a position of the directory, and advance the position behind it."""
    if size - position[0] < _CENTRAL_BYTES:
        raise damaged(file, "another entry of the zip directory", "its end")
    cdef const unsigned char *fields = data + position[0]
    cdef Py_ssize_t name_length = _number(fields + 28, 2), extra_length = _number(fields + 30, 2)
    cdef Py_ssize_t length = _CENTRAL_BYTES + name_length + extra_length + <Py_ssize_t> _number(fields + 32, 2)
    if _number(fields, 4) != _CENTRAL_SIGNATURE or length > size - position[0]:
        raise damaged(file, "another entry of the zip directory", "other bytes")
    if _number(fields + 34, 2) != 0:
        raise damaged(file, "one disk", f"disk {_number(fields + 34, 2)}")
    cdef const unsigned char *name = fields + _CENTRAL_BYTES
    cdef ZipEntry entry = ZipEntry.__new__(ZipEntry)
    entry.raw_name = name[:name_length]
    entry.name = _name(file, entry.raw_name, name, name_length)
    entry.flags = <unsigned int> _number(fields + 8, 2)
    entry.method = <unsigned int> _number(fields + 10, 2)
    entry.crc = <unsigned int> _number(fields + 16, 4)
    entry.stored_size = _number(fields + 20, 4)
    entry.size = _number(fields + 24, 4)
    entry.header_offset = _number(fields + 42, 4)
    if _ALL_ONES in (entry.size, entry.stored_size, entry.header_offset):
        _widen(file, entry, name + name_length, extra_length)
    entry.checked = True
    position[0] += length
    return entry


cdef str _name(object file, bytes raw, const unsigned char *name, Py_ssize_t length):
    if _is_plain(name, length):
        return PyUnicode_DecodeASCII(<const char *> name, length, NULL)
    if raw.endswith(b"/"):
        return decode_name(file.path, raw.removesuffix(b"/")) + "/"
    return decode_name(file.path, raw)


cdef bint _is_plain(const unsigned char *name, Py_ssize_t length) noexcept:
    """Tell whether a name is one that decode_name accepts, without a look at its parts: ASCII, and no hidden file."""
    cdef Py_ssize_t at
    cdef unsigned char before = c"/"
    if not 0 < length <= _MAX_NAME:
        return False
    for at in range(length):
        if not 0x20 <= name[at] < 0x7F or (before == c"/" and (name[at] == c"/" or name[at] == c".")):
            return False
        before = name[at]
    return before != c"/"


cdef int _widen(object file, ZipEntry entry, const unsigned char *extra, Py_ssize_t length) except -1:
    """Replace numbers that are all ones with the 64-bit numbers of the extra field, which are in the same order."""
    cdef Py_ssize_t missing = (
        (entry.size == _ALL_ONES) + (entry.stored_size == _ALL_ONES) + (entry.header_offset == _ALL_ONES)
    )
    cdef Py_ssize_t position = 0, kind, field
    while length - position >= 4:
        kind, field = _number(extra + position, 2), _number(extra + position + 2, 2)
        position += 4
        if kind == _ZIP64_EXTRA and 8 * missing <= field <= length - position:
            if entry.size == _ALL_ONES:
                entry.size = _number(extra + position, 8)
                position += 8
            if entry.stored_size == _ALL_ONES:
                entry.stored_size = _number(extra + position, 8)
                position += 8
            if entry.header_offset == _ALL_ONES:
                entry.header_offset = _number(extra + position, 8)
            return 0
        position += field
    raise damaged(file, f"the 64-bit sizes of zip entry {entry.name!r}", "none")


cdef Offset _number(const unsigned char *data, int size) noexcept:
    """Return a little-endian number of so many bytes."""
    cdef Offset value = 0
    cdef int at
    for at in range(size):
        value |= <Offset> data[at] << 8 * at
    return value


# The entries


def locate_all(file, entries):
    """Return where the bytes of each entry are.

    Parameters
    ----------
    file : FileBytes
    entries : sequence of ZipEntry
        With their limits; fastest in the order of the file.

    Returns
    -------
    list of Place

    Raises
    ------
    UnsupportedError
        If one is encrypted, or compressed in another way than by Deflate.
    FormatError
        If its local header or descriptor differs from the directory, or it overlaps the next entry.
    """
    reader = _Reader(file)
    return [_locate(reader, entry) for entry in entries]


cdef class _Reader:
    """Reads a few bytes of a file at a time, and those behind them that are likely to be next.

    A large checkpoint takes thousands of such reads; only those that fail or are long call :class:`FileBytes`.
    """

    cdef object file
    cdef int descriptor
    cdef Offset file_size, start, held
    cdef unsigned char ahead[_AHEAD]
    cdef bytes others
    cdef const unsigned char *chunk

    def __init__(self, file):
        self.file = file
        self.descriptor = file.descriptor
        self.file_size = file.size
        self.start = self.held = 0
        self.chunk = self.ahead

    cdef const unsigned char *read_at(self, Offset offset, Py_ssize_t size) except NULL:
        """Return the bytes at a position, valid until the next call; raise FormatError if the file has fewer."""
        if offset < self.start or offset - self.start > self.held or self.held - (offset - self.start) < <Offset> size:
            self.fill(offset, size)
        return self.chunk + (offset - self.start)

    cdef int fill(self, Offset offset, Py_ssize_t size) except -1:
        """Read at least so many bytes from a position."""
        cdef Offset left = 0 if offset > self.file_size else self.file_size - offset
        cdef Py_ssize_t wanted = max(size, <Py_ssize_t> min(left, <Offset> _AHEAD)), count = -1
        self.held = 0
        if wanted <= _AHEAD and <Offset> wanted <= left:
            with nogil:  # the disk may take its time
                count = pread(self.descriptor, self.ahead, <size_t> wanted, <off_t> offset)
        if count == wanted:
            self.chunk = self.ahead
        else:  # a long name, a read that was short or failed, a position outside the file
            self.others = self.file.read_at(offset, wanted)
            self.chunk = <const unsigned char *> PyBytes_AsString(self.others)
        self.start, self.held = offset, <Offset> wanted
        return 0


cdef Place _locate(_Reader reader, ZipEntry entry):
    file = reader.file
    if entry.flags & _FLAG_ENCRYPTED:
        raise UnsupportedError(f"{file.path}: expected a plain zip entry {entry.name!r}, got an encrypted one")
    if entry.method != _STORED and entry.method != _DEFLATED:
        raise UnsupportedError(
            f"{file.path}: expected zip entry {entry.name!r} stored or deflated, got it compressed (method "
            f"{entry.method}); unpack the archive and pack it again without compression, as zip -0 -r does"
        )
    if entry.method == _STORED and entry.stored_size != entry.size:
        raise damaged(file, f"zip entry {entry.name!r} of one size", f"{entry.stored_size} and {entry.size}")
    cdef Py_ssize_t name_length = len(entry.raw_name)
    cdef const unsigned char *header = reader.read_at(entry.header_offset, _LOCAL_BYTES + name_length)
    cdef unsigned int flags = <unsigned int> _number(header + 6, 2)
    if (
        _number(header, 4) != _LOCAL_SIGNATURE
        or _number(header + 8, 2) != entry.method
        or flags & _FLAG_ENCRYPTED
    ):
        raise damaged(file, f"the local header of zip entry {entry.name!r}", "other bytes")
    name = header[_LOCAL_BYTES:_LOCAL_BYTES + name_length]
    if _number(header + 26, 2) != <Offset> name_length or name != entry.raw_name:
        raise damaged(file, f"zip entry {entry.name!r} under one name", "another in its local header")
    cdef bint follow = flags & _FLAG_SIZES_FOLLOW
    cdef Offset stored_size = _number(header + 18, 4), size = _number(header + 22, 4)
    if not _agrees(size, entry.size, follow) or not _agrees(stored_size, entry.stored_size, follow):
        raise damaged(file, f"zip entry {entry.name!r} of {entry.size} bytes", f"{size} in its local header")
    # Small: the local header is in front of the directory.
    cdef Offset offset = entry.header_offset + _LOCAL_BYTES + name_length + _number(header + 28, 2)
    if offset > entry.limit or entry.limit - offset < entry.stored_size:
        end = int(offset) + entry.stored_size
        raise damaged(file, f"zip entry {entry.name!r} to end at {entry.limit} at most", f"its end at {end}")
    if follow and entry.stored_size and not _has_descriptor(reader, entry, offset + entry.stored_size):
        raise damaged(file, f"the sizes of zip entry {entry.name!r} behind its bytes", "others or none")
    crc32 = entry.crc if entry.checked else None
    if entry.method == _STORED:
        return Place(offset, None, entry.size, crc32)
    data = InflatedBytes(file, entry.name, offset, entry.stored_size, entry.size)
    return Place(0, data, entry.size, crc32)


cdef bint _agrees(Offset local, Offset size, bint follow) noexcept:
    """Tell whether a local header has a size, or says that it is elsewhere."""
    return local == size or local == _ALL_ONES or (follow and local == 0)


cdef bint _has_descriptor(_Reader reader, ZipEntry entry, Offset end) except -1:
    """Tell whether an entry is followed by its checksum and sizes; otherwise its offset or size is wrong."""
    cdef Offset left = entry.limit - end
    cdef const unsigned char *found
    if left >= <Offset> _DESCRIPTOR_BYTES:
        found = reader.read_at(end, _DESCRIPTOR_BYTES)
        if _number(found, 4) != _DESCRIPTOR_SIGNATURE or _number(found + 4, 4) != entry.crc:
            return False
        if _number(found + 8, 4) == entry.stored_size and _number(found + 12, 4) == entry.size:
            return True
    if left >= <Offset> _DESCRIPTOR64_BYTES:
        found = reader.read_at(end, _DESCRIPTOR64_BYTES)
        return _number(found + 8, 8) == entry.stored_size and _number(found + 16, 8) == entry.size
    return False
