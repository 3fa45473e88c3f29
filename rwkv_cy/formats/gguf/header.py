"""The bytes in front of a GGUF file's tensors: read in growing pieces, within limits, without trust in any length."""

from __future__ import annotations

import math
import struct

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_NAME_BYTES, FileBytes, decode_name
from rwkv_cy.formats.gguf.types import ARRAY, BOOL, FLOAT32, SCALARS, STRING, VALUE_NAMES
from rwkv_cy.formats.signatures import GGUF_MAGIC
from rwkv_cy.records import dataclass

__all__ = ["Array", "Header", "Value"]


_VERSIONS = (2, 3)
_FIRST_PIECE = 1 << 20
_LENGTH = struct.Struct("<Q")
_COUNTS = struct.Struct("<QQ")
_DESCRIPTIONS = {dimensions: struct.Struct(f"<{dimensions}QIQ") for dimensions in (1, 2, 3, 4)}
#: Longest text in the metadata that is read, other than as an array of one; chat templates have tens of kilobytes.
_MAX_TEXT = 1 << 20
_LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True)
class Array:
    """An array in the metadata, which is read only on request.

    Attributes
    ----------
    kind : int
        Type of its elements: a key of SCALARS, or STRING.
    count : int
    offset : int
        The first byte of the elements in the file.
    nbytes : int
        Bytes of the elements.
    """

    kind: int
    count: int
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return f"an array of {self.count:,} of type {VALUE_NAMES[self.kind]}"


Value = int | float | bool | str | Array


def _shortest(number: float) -> float:
    """Return the number with the fewest digits that is stored as the same float32."""
    pack = SCALARS[FLOAT32].pack
    if math.isfinite(number):
        for digits in range(6, 9):
            short = float(f"{number:.{digits}g}")
            if abs(short) <= _LARGEST_FLOAT32 and pack(short) == pack(number):
                return short
    return float(f"{number:.9g}")


class Header:
    """A cursor that begins after magic and version.

    Parameters
    ----------
    file : FileBytes
        An open file.

    Attributes
    ----------
    position : int
        The byte that is read next.

    Raises
    ------
    FormatError
        If the file is not GGUF, or too short.
    UnsupportedError
        If it is of version 1, of a later version than 3, or big-endian.
    """

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._data = b""
        self.position = 0
        magic = self._take(len(GGUF_MAGIC))
        if magic != GGUF_MAGIC:
            raise FormatError(f"{file.path}: expected GGUF's magic {GGUF_MAGIC!r}, got {magic!r}; it is another format")
        version = self._take(4)
        _check_version(file, version)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of tensors and of metadata values that the file declares."""
        tensors, values = _COUNTS.unpack(self._take(_COUNTS.size))
        return tensors, values

    def integer(self, size: int) -> int:
        """Return the next integer, without sign, of so many bytes."""
        start, end = self.position, self.position + size
        if end > len(self._data):
            self._load(end)
        self.position = end
        return int.from_bytes(self._data[start:end], "little")

    def description(self, dimensions: int) -> tuple[list[int], int, int]:
        """Return the next so many lengths, the type and the offset of a tensor."""
        pattern = _DESCRIPTIONS[dimensions]
        *lengths, kind, offset = pattern.unpack(self._take(pattern.size))
        return lengths, kind, offset

    def name(self, of: str) -> str:
        """Return the next string as the name of something (``"a tensor"``); FormatError if it is not fit to be one."""
        length = self._length()
        return decode_name(self._file.path, self._take(min(length, MAX_NAME_BYTES + 1)), of)

    def value(self, key: str) -> Value:
        """Return the next value of the metadata: its type, then itself.

        Raises
        ------
        FormatError
            If its type is unknown, or it is larger than the file or than the limits.
        """
        return self._value(key, self.integer(4))

    def _value(self, key: str, kind: int) -> Value:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise self._damaged(f"{key}: expected a type of value from 0 to {len(VALUE_NAMES) - 1}, got {kind}")
        number: int | float = SCALARS[kind].unpack(self._take(SCALARS[kind].size))[0]
        if kind == FLOAT32:
            # The shortest number that is stored so: 1e-05, and not 9.999999747378752e-06.
            return _shortest(number)
        if kind != BOOL:
            return number
        if number not in (0, 1):
            raise self._damaged(f"{key}: expected 0 or 1 for a bool, got {number}")
        return number == 1

    def _array(self, key: str) -> Array:
        kind, count = self.integer(4), self.integer(8)
        if kind != STRING and kind not in SCALARS:
            what = VALUE_NAMES[kind] if kind < len(VALUE_NAMES) else f"type {kind}"
            raise self._damaged(f"{key}: expected an array of numbers or strings, got one of {what}")
        smallest = _LENGTH.size if kind == STRING else SCALARS[kind].size
        self._check_size(count * smallest)
        start = self.position
        if kind == STRING:
            self._skip_strings(count)
        else:
            self.position += count * smallest
            self._load(self.position)
        return Array(kind, count, start, self.position - start)

    def _skip_strings(self, count: int) -> None:
        position, data, unpack, size = self.position, self._data, _LENGTH.unpack_from, _LENGTH.size
        for _ in range(count):
            if position + size > len(data):
                self._load(position + size)
                data = self._data
            position += size + unpack(data, position)[0]
        self._load(position)
        self.position = position

    def _text(self) -> Value:
        start = self.position
        length = self._length()
        if length > _MAX_TEXT:
            self.position += length
            self._load(self.position)
            return Array(STRING, 1, start, self.position - start)
        # The format wants UTF-8, but what is shown to people need not stop a model from being read.
        return self._take(length).decode("utf-8", "replace")

    def _length(self) -> int:
        length = self.integer(_LENGTH.size)
        self._check_size(length)
        return length

    def _take(self, size: int) -> bytes:
        start, end = self.position, self.position + size
        if end > len(self._data):
            self._load(end)
        self.position = end
        return self._data[start:end]

    def _check_size(self, size: int) -> None:
        """Raise FormatError if so many more bytes are beyond the end of the file, or of what a header may have."""
        end = self.position + size
        if end > self._file.size:
            raise FormatError(
                f"{self._file.path}: expected bytes within the {self._file.size} of the file, got {size} at "
                f"{self.position}; the file is cut short or damaged: download or copy it again"
            )
        if end > MAX_HEADER_BYTES:
            raise self._damaged(f"expected at most {MAX_HEADER_BYTES} bytes in front of the tensors, got {end}")

    def _load(self, end: int) -> None:
        """Read the file up to `end`, which is checked first."""
        if end <= len(self._data):
            return
        self._check_size(end - self.position)
        size = min(max(end, 2 * len(self._data), _FIRST_PIECE), self._file.size)
        self._data += self._file.read_at(len(self._data), size - len(self._data))

    def _damaged(self, problem: str) -> FormatError:
        return FormatError(f"{self._file.path}: {problem}; the file is damaged")


def _check_version(file: FileBytes, raw: bytes) -> None:
    version = int.from_bytes(raw, "little")
    if version in _VERSIONS:
        return
    if int.from_bytes(raw, "big") in (1, *_VERSIONS):
        raise UnsupportedError(
            f"{file.path}: expected a little-endian GGUF file, got a big-endian one; "
            "convert the original checkpoint on this machine, or byte-swap the file with gguf-convert-endian"
        )
    what = "version 1, which llama.cpp no longer reads" if version == 1 else f"version {version}"
    raise UnsupportedError(
        f"{file.path}: expected version 2 or 3 of GGUF, got {what}; convert the original checkpoint again"
    )
