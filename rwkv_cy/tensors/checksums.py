"""Verification of a source's checksums in a separate thread, while other threads read its tensors."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["ChecksumPass"]


class ChecksumPass:
    """A pass over all tensors that verifies their checksums. A context manager; leaving it stops the pass.

    Parameters
    ----------
    source : ParameterSource
    """

    def __init__(self, source: ParameterSource) -> None:
        self._source = source
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rwkv_cy-checksums")
        self._running: Future[None] | None = None

    def __enter__(self) -> ChecksumPass:
        try:
            self._running = self._pool.submit(self._run)
        except RuntimeError:  # the system cannot start a thread: finish() runs the pass
            self._running = None
        return self

    def finish(self) -> None:
        """Wait until the pass ends; raise FormatError if a checksum differs."""
        if self._running is None:
            self._run()
        else:
            self._running.result()

    def _run(self) -> None:
        for name in self._source.names():
            if self._stop.is_set():
                return
            self._source.check_bytes(name)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._pool.shutdown()
