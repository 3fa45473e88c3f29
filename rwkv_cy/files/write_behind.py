"""Write-behind: data are flushed while a file is written, so that the fsync at the end is short."""

from __future__ import annotations

from contextlib import suppress

from rwkv_cy.files.write_out import begin_write_out

__all__ = ["WriteBehind"]

#: Bytes between two flushes.
_STEP = 8 << 20


class WriteBehind:
    """Flushes a file while it is being written.

    It is only a hint: the fsync at the end makes the file durable and reports errors.

    Parameters
    ----------
    descriptor : int
        Of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = 0

    def wrote(self, size: int) -> None:
        """Count `size` more bytes, and start a flush if there are enough."""
        self._pending += size
        if self._pending >= _STEP:
            self._pending = 0
            # If it is not supported, the fsync does all the work; errors show up there too.
            with suppress(OSError):
                begin_write_out(self._descriptor)
