"""Verification of a source's checksums in a separate thread, while other threads read its tensors."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from rwkv_cy.errors import StorageError
from rwkv_cy.tensors.parallel import Stop, StoppedError
from rwkv_cy.tensors.tensor import ParameterSource

__all__ = ["ChecksumPass"]


class ChecksumPass:
    """A pass over a source's tensors that verifies their checksums. A context manager; leaving it stops it at once.

    Parameters
    ----------
    source : ParameterSource
    copied : collection of str
        Tensors that are left to :meth:`compare`: somebody reads all of their bytes anyway.
    """

    def __init__(self, source: ParameterSource, copied: Collection[str] = ()) -> None:
        self._source = source
        self.copied = copied
        self._stop = Stop()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rwkv_cy-checksums")
        self._running: Future[None] | None = None

    def __enter__(self) -> ChecksumPass:
        try:
            self._running = self._pool.submit(self._run)
        except RuntimeError:  # the system cannot start a thread: finish() runs the pass
            self._running = None
        except BaseException:  # an interrupt while the thread starts: nobody would stop it, and Python waits for it
            self._stop.set()
            raise
        return self

    def finish(self) -> None:
        """Wait until the pass ends; raise FormatError if a checksum differs."""
        if self._running is None:
            self._run()
        else:
            self._running.result()

    def compare(self, name: str, crc: int) -> None:
        """Compare the CRC-32 of a tensor in `copied`, computed while its bytes were copied, with the source's.

        Raises
        ------
        FormatError
            If the source is damaged.
        StorageError
            If it is not: the bytes were others a moment ago.
        """
        if crc != self._source.checksum(name):
            self._source.check_bytes(name)
            raise StorageError(
                f"{self._source.path}: {name}: expected the same bytes in two reads, got different ones; the file "
                "changed, or memory or the disk is faulty: try again"
            )

    def _run(self) -> None:
        with suppress(StoppedError):
            for name in self._source.names():
                self._stop()
                if name not in self.copied:
                    self._source.check_bytes(name, self._stop)

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._pool.shutdown()
