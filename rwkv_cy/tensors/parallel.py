"""Independent jobs on several threads: the first error stops them, and so does an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

__all__ = ["run_jobs"]


def run_jobs(jobs: Sequence[Callable[[], object]], num_threads: int) -> None:
    """Run all jobs; the order in which they end is not defined.

    The first error, or an interrupt, cancels the jobs that have not started; it is raised after the running ones have
    ended. If the system cannot start threads, the jobs run in the calling thread, and a job may run twice.

    Parameters
    ----------
    jobs : sequence of callable
    num_threads : int
    """
    num_threads = min(num_threads, len(jobs))
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads, thread_name_prefix="rwkv_cy") as pool:
            try:
                futures = [pool.submit(job) for job in jobs]
            except RuntimeError:  # a thread could not be started
                pool.shutdown(cancel_futures=True)
            else:
                try:
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                return
    for job in jobs:
        job()
