"""Writing out while more is being written, so that the fsync at the end of a large file has little left to do."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

__all__ = ["WriteBehind"]

#: Bytes after which the disk is asked for what was written; smaller files never start a thread.
_STEP = 64 << 20


class WriteBehind:
    """Syncs a file in a thread of its own, one sync at a time.

    Parameters
    ----------
    descriptor : int
        Of the file; it must stay open until :meth:`wait` has returned.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, size: int) -> None:
        """Take note of `size` bytes more, and begin to write out if there is enough and nothing is on its way."""
        self._pending += size
        if self._pending >= _STEP and (self._thread is None or not self._thread.is_alive()):
            self._pending = 0
            thread = threading.Thread(target=self._sync, name="rwkv_cy-sync", daemon=True)
            # Where no thread can be had (the limits of a container), the sync at the end does it all.
            with suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def wait(self) -> None:
        """Wait for the sync that is on its way, if there is one."""
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Wait, and raise the OSError that a sync ended with, if one did.

        The system tells of a failed write once for each open file: whoever syncs later would hear nothing of it.
        """
        self.wait()
        if self._error is not None:
            raise self._error

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = error
