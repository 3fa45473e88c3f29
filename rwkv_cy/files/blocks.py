"""Blocks of a file that is written from its first byte to its last, some of them made when it is their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeAlias

from rwkv_cy.files.checksum import crc32

__all__ = ["Block", "Summed", "bytes_of"]

#: Bytes, or a function that returns them: called once, by whoever writes them, when everything before them is written.
Block: TypeAlias = bytes | memoryview | Callable[[], bytes | memoryview]


def bytes_of(block: Block) -> bytes | memoryview:
    """Return the bytes of a block whose turn it is."""
    return block() if callable(block) else block


class Summed:
    """Blocks whose checksum is computed where they are written, so that each is read once for both.

    Parameters
    ----------
    blocks : iterable of bytes or memoryview
        Iterated once.
    written : callable, optional
        Called with the CRC-32 of all blocks when the last of them was written.

    Attributes
    ----------
    crc32 : int
        The CRC-32 of the blocks that were written.
    """

    def __init__(self, blocks: Iterable[bytes | memoryview], written: Callable[[int], None] | None = None) -> None:
        self.crc32 = 0
        self._blocks = blocks
        self._written = written

    def __iter__(self) -> Iterator[Block]:
        for block in self._blocks:
            yield partial(self._add, block)
        if self._written is not None:
            yield self._finish

    def _add(self, block: bytes | memoryview) -> bytes | memoryview:
        self.crc32 = crc32(block, self.crc32)
        return block

    def _finish(self) -> bytes:
        if self._written is not None:
            self._written(self.crc32)
        return b""
