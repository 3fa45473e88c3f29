"""The CRC-32 of each entry of a zip archive, compared with its bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.zip_directory import locate, read_directory

__all__ = ["ZipChecksums", "compare_zip_checksums"]

_SIGNATURE = b"PK\x03\x04"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class ZipChecksums:
    """What comparing the checksums of an archive found.

    Attributes
    ----------
    compared : int
        Entries with a checksum; torch writes 0 for "not computed" where it is told to save the time.
    damaged : tuple of str
        Names of the entries whose bytes do not match.
    """

    compared: int
    damaged: tuple[str, ...]


def compare_zip_checksums(path: Path, progress: Callable[[int], None] | None = None) -> ZipChecksums | None:
    """Read every entry of the archive `path` and compare its CRC-32; None if the file is not a zip archive.

    Parameters
    ----------
    path : Path
    progress : callable, optional
        Called with the number of bytes that have just been read.

    Raises
    ------
    FormatError
        If the archive's directory is damaged.
    StorageError
        If the operating system refuses a read.
    """
    with FileBytes(path) as file:
        if file.read_at(0, min(file.size, len(_SIGNATURE))) != _SIGNATURE:
            return None
        entries = [entry for entry in read_directory(file).values() if entry.crc]
        damaged = []
        for entry in entries:
            start, crc = locate(file, entry), 0
            for offset in range(start, start + entry.stored_size, _BLOCK_BYTES):
                block = file.read_at(offset, min(_BLOCK_BYTES, start + entry.stored_size - offset))
                crc = zlib.crc32(block, crc)
                if progress is not None:
                    progress(len(block))
            if crc != entry.crc:
                damaged.append(entry.name)
        return ZipChecksums(len(entries), tuple(damaged))
