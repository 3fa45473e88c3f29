"""Writes in a separate thread, while the caller makes what is to be written next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["WriteBehind"]


class WriteBehind:
    """Runs writes one after another in a separate thread, one behind the caller. A context manager.

    Writing and checksums release the GIL, so that a second core does them. The memory of one write must stay as it is
    until the next one was submitted: two buffers are enough. Leaving the context waits for the last write.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rwkv_cy-write")
        self._running: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Wait for the previous write, and start this one; raises what the previous one raised."""
        self.wait()
        try:
            self._running = self._pool.submit(write)
        except RuntimeError:  # the system cannot start a thread
            write()

    def wait(self) -> None:
        """Wait for the last write; raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()
