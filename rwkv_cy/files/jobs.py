"""Jobs: calls that do not depend on each other, run by several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

__all__ = ["Job", "run_jobs"]

Job = Callable[[], object]


def run_jobs(jobs: deque[Job], num_threads: int) -> None:
    """Run all jobs, some of them in the caller's thread; the first error ends them all.

    Parameters
    ----------
    jobs : deque of callable
        Taken from the left; empty afterwards.
    num_threads : int
        Threads to use, the caller's among them; fewer where the system gives no more.
    """

    def take() -> Job | None:
        with suppress(IndexError):
            return jobs.popleft()
        return None

    def work() -> None:
        try:
            while (job := take()) is not None:
                job()
        except BaseException:
            jobs.clear()
            raise

    helpers = []
    with ThreadPoolExecutor(max(1, num_threads - 1)) as pool:
        with suppress(RuntimeError):  # the system starts no more threads, as within the limits of a container
            for _ in range(num_threads - 1):
                helpers.append(pool.submit(work))
        work()
    for helper in helpers:
        helper.result()
