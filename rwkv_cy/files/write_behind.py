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
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="rwkv_cy-write")
        self._running: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Wait for the previous write, and start this one; raises what the previous one raised."""
        self.wait()
        if self._pool is not None:
            try:
                self._running = self._pool.submit(write)
                return
            except RuntimeError:  # the system cannot start a thread
                # The executor has queued the write: a thread that starts later must not repeat it.
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
        write()

    def wait(self) -> None:
        """Wait for the last write; raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *exc: object) -> None:
        interrupt = None
        while self._pool is not None:
            try:
                self._pool.shutdown()
                self._pool = None
            except KeyboardInterrupt as error:  # the file must not be closed while a write is under way
                interrupt = error
        if interrupt is not None:
            raise interrupt
