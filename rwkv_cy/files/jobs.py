"""Jobs: calls that do not depend on each other, done by several threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Job", "run_jobs"]

Job = Callable[[], object]


def run_jobs(jobs: deque[Job], num_threads: int) -> None:
    """Do all jobs, the caller among the threads; the first error ends them all.

    Parameters
    ----------
    jobs : deque of callable
        Taken from the left; empty afterwards.
    num_threads : int
        Threads to use, the caller's among them; fewer where the system gives no more.
    """
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                try:
                    job = jobs.popleft()
                except IndexError:  # none is left; a job's own IndexError is an error like any other
                    return
                job()
        except BaseException as error:
            jobs.clear()
            errors.append(error)

    threads = [threading.Thread(target=work, name="rwkv_cy-job", daemon=True) for _ in range(num_threads - 1)]
    started = []
    # Where no thread can be had (the limits of a container), the caller does it all.
    with suppress(RuntimeError):
        for thread in threads:
            thread.start()
            started.append(thread)
    work()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]
