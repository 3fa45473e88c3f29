"""CRC-32 of large blocks: by isal where it is installed, which is faster than zlib."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
