"""The bytes of a deflated zip entry, inflated as they are read, in bounded memory."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.errors import FormatError
from rwkv_cy.files.checksum import crc32
from rwkv_cy.files.reading import FileBytes

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["InflatedBytes"]

_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 18
#: Positions that are remembered: as many threads as that can read on, each from where it stopped.
_CURSORS = 4


class InflatedBytes:
    """Bytes of a file that are stored deflated, fastest to read in ascending order.

    Several threads may read at once; one waits for another.

    Parameters
    ----------
    file : FileBytes
    name : str
        Of the entry, for messages.
    offset, stored_size : int
        The deflated bytes in the file.
    size : int
        Bytes when inflated.
    """

    def __init__(self, file: FileBytes, name: str, offset: int, stored_size: int, size: int) -> None:
        self.size = size
        self._file = file
        self._name = name
        self._offset, self._stored_size = offset, stored_size
        self._lock = threading.Lock()
        self._cursors: list[_Cursor] = []

    def read_into_at(self, offset: int, buffer: npt.NDArray[Any]) -> None:
        """Fill the whole of `buffer` (C-contiguous, any dtype) with inflated bytes from `offset`.

        Raises
        ------
        FormatError
            If the bytes are not deflated ones, or end before or after `size`.
        """
        view = buffer.reshape(-1).view(np.uint8)
        with self._lock:
            cursor = self._cursor(offset)
            cursor.skip(offset - cursor.position)
            cursor.fill(view)
            if cursor.position == self.size:
                cursor.finish()
            else:
                self._cursors.append(cursor)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` inflated bytes from `offset`."""
        buffer = np.empty(size, np.uint8)
        self.read_into_at(offset, buffer)
        return buffer.tobytes()

    def crc32(self, advance: Callable[[int], None] | None = None) -> int:
        """Return the CRC-32 of all bytes; FormatError as in :meth:`read_into_at`.

        `advance` is called with the bytes of each block.
        """
        cursor = self._new_cursor()
        crc = 0
        buffer = np.empty(min(self.size, _OUTPUT_BYTES), np.uint8)
        while cursor.position < self.size:
            block = buffer[: self.size - cursor.position]
            cursor.fill(block)
            crc = crc32(block.data, crc)
            if advance is not None:
                advance(block.size)
        cursor.finish()
        return crc

    def _cursor(self, offset: int) -> _Cursor:
        """Take the remembered position that is nearest before `offset`, or begin anew."""
        before = [cursor for cursor in self._cursors if cursor.position <= offset]
        if before:
            nearest = max(before, key=lambda cursor: cursor.position)
            self._cursors.remove(nearest)
            return nearest
        del self._cursors[: max(len(self._cursors) - _CURSORS + 1, 0)]
        return self._new_cursor()

    def _new_cursor(self) -> _Cursor:
        return _Cursor(self._file, self._name, self._offset, self._stored_size)


class _Cursor:
    """A position in the inflated bytes, from which reading goes on."""

    def __init__(self, file: FileBytes, name: str, offset: int, stored_size: int) -> None:
        self.position = 0
        self._file, self._name = file, name
        self._next, self._end = offset, offset + stored_size
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    def skip(self, count: int) -> None:
        buffer = np.empty(min(count, _OUTPUT_BYTES), np.uint8)
        while count:
            part = buffer[:count]
            self.fill(part)
            count -= part.size

    def fill(self, view: npt.NDArray[np.uint8]) -> None:
        done = 0
        while done < view.size:
            part = self._inflate(min(view.size - done, _OUTPUT_BYTES))
            if not part:
                raise self._damaged("it ends too early")
            view[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        self.position += done

    def finish(self) -> None:
        """Raise FormatError unless this was the end."""
        if self._inflate(1) or self._next < self._end or self._inflater.unused_data:
            raise self._damaged("it goes on after its end")

    def _inflate(self, limit: int) -> bytes:
        """Return up to `limit` bytes; none at the end."""
        while True:
            deflated = self._inflater.unconsumed_tail
            if not deflated and self._next < self._end and not self._inflater.eof:
                deflated = self._file.read_at(self._next, min(_INPUT_BYTES, self._end - self._next))
                self._next += len(deflated)
            try:
                part = self._inflater.decompress(deflated, limit)
            except zlib.error:
                raise self._damaged("it has other bytes") from None
            if part or self._inflater.eof or (not self._inflater.unconsumed_tail and self._next == self._end):
                return part

    def _damaged(self, what: str) -> FormatError:
        return FormatError(
            f"{self._file.path}: expected deflated bytes in zip entry {self._name!r}, but {what}; "
            "the file is damaged: download it again"
        )
