"""CRC-32: of large blocks by isal where it is installed, which is faster than zlib."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

__all__ = ["crc32"]

#: For smaller blocks alone, loading isal takes longer than it saves.
_LARGE = 1 << 20


def crc32(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """Return the CRC-32 of bytes, after others whose CRC-32 is `value`."""
    if memoryview(data).nbytes < _LARGE:
        return zlib.crc32(data, value)
    return _fastest()(data, value)


@cache
def _fastest() -> Callable[[bytes | bytearray | memoryview, int], int]:
    try:
        from isal.isal_zlib import crc32
    except ImportError:
        return zlib.crc32
    fastest: Callable[[bytes | bytearray | memoryview, int], int] = crc32
    return fastest
