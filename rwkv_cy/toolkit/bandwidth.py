"""A quick sample of this machine's read bandwidth, taken beside other work and once in a process."""

from __future__ import annotations

from threading import Lock, Thread

from rwkv_cy.errors import ConfigError
from rwkv_cy.runtime import available_memory, get_num_threads, last_level_cache

__all__ = ["BandwidthSample", "machine_sample"]

#: How long memory is read. Allocating it takes about as long.
_SECONDS = 0.01
#: Memory that is read: twice the largest cache, within these bounds.
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 128 << 20
#: Available memory that a sample may take: one part of so many.
_SHARE = 8


class BandwidthSample:
    """The bytes a second that the default number of threads read from memory, measured once in a thread of its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._started = False
        self._result: float | None = None

    def start(self) -> None:
        """Begin to measure, if that has not begun; returns at once."""
        with self._lock:
            if self._started:
                return
            self._started = True
            thread = Thread(target=self._measure, name="read bandwidth", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system cannot start a thread
                return
            self._thread = thread

    def result(self) -> float | None:
        """Return the bytes a second, after waiting for them; None if memory is short, or no thread starts."""
        self.start()
        if self._thread is not None:
            self._thread.join()
        return self._result

    def _measure(self) -> None:
        from rwkv_cy.kernels.dispatch import read_bandwidth

        available = available_memory()
        size = min(max(_LEAST_BYTES, 2 * last_level_cache()), _MOST_BYTES)
        if available is not None and size > available // _SHARE:
            return
        try:
            self._result = read_bandwidth(size, get_num_threads(), _SECONDS) or None
        except ConfigError:  # a wrong setting in the environment: what runs a model reports it
            self._result = None


_sample = BandwidthSample()


def machine_sample() -> BandwidthSample:
    """Return the sample that this process shares."""
    return _sample
