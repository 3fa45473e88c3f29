"""Independent jobs on several threads: the first error stops them, and so does an interrupt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

__all__ = ["Stop", "StoppedError", "run_jobs"]


class StoppedError(Exception):
    """Ends a job whose result nobody waits for."""


class Stop:
    """Tells running jobs to end: a long one calls it now and then, and it raises StoppedError once it is set.

    It takes a number of bytes, so that it can be what functions call with the progress of a read.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Let all calls from now on raise StoppedError."""
        self._event.set()

    def __call__(self, count: int = 0) -> None:
        """Raise StoppedError if it is set."""
        if self._event.is_set():
            raise StoppedError


def run_jobs(jobs: Sequence[Callable[[], object]], num_threads: int, stop: Stop | None = None) -> None:
    """Run all jobs; the order in which they end is not defined.

    The first error, or an interrupt, cancels the jobs that have not started; it is raised after the running ones have
    ended. If the system cannot start threads, the jobs run in the calling thread, and a job may run twice.

    Parameters
    ----------
    jobs : sequence of callable
    num_threads : int
    stop : Stop, optional
        Set before the running jobs are waited for.
    """
    num_threads = min(num_threads, len(jobs))
    if num_threads > 1:
        from concurrent.futures import ThreadPoolExecutor, as_completed  # a model file is opened without it

        with ThreadPoolExecutor(num_threads, thread_name_prefix="rwkv_cy") as pool:
            try:
                futures = [pool.submit(job) for job in jobs]
            except RuntimeError:  # a thread could not be started
                pool.shutdown(cancel_futures=True)
            except BaseException:  # an interrupt: what has started is not waited for to its end
                if stop is not None:
                    stop.set()
                pool.shutdown(cancel_futures=True)
                raise
            else:
                try:
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    if stop is not None:
                        stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise
                return
    for job in jobs:
        job()
