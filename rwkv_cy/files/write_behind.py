"""Writing out while more is being written, so that the fsync at the end of a large file has little left to do."""

from __future__ import annotations

from contextlib import suppress

from rwkv_cy.files.write_out import begin_write_out

__all__ = ["WriteBehind"]

#: Bytes after which the disk is given what was written. It takes them in requests of about 1 MiB anyway.
_STEP = 8 << 20


class WriteBehind:
    """Keeps the disk at work while a file is being written.

    Only a hint to the system: what makes a file durable, and tells of writes that failed, is the fsync at its end.

    Parameters
    ----------
    descriptor : int
        Of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = 0

    def wrote(self, size: int) -> None:
        """Take note of `size` bytes more, and begin to write out if there is enough."""
        self._pending += size
        if self._pending >= _STEP:
            self._pending = 0
            # Where the system cannot, the fsync does it all; what fails here, fails there as well.
            with suppress(OSError):
                begin_write_out(self._descriptor)
