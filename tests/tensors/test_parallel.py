"""Jobs that several threads share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from rwkv_cy.tensors.parallel import Stop, StoppedError, run_jobs


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_job_is_done_once(threads: int) -> None:
    done: list[int] = []
    run_jobs([partial(done.append, i) for i in range(100)], threads)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_ends_them_all(threads: int) -> None:
    done: list[int] = []

    def fail() -> None:
        raise IndexError("a job's own")

    with pytest.raises(IndexError, match="a job's own"):
        run_jobs([fail, *(partial(done.append, i) for i in range(10_000))], threads)
    if threads == 1:
        assert not done


def test_where_the_system_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    run_jobs([partial(done.append, i) for i in range(3)], 4)
    assert done == [0, 1, 2]


@pytest.mark.parametrize("error", [IndexError, KeyboardInterrupt])
def test_running_jobs_end_before_they_are_done(error: type[BaseException]) -> None:
    stop, started, ended = Stop(), threading.Event(), threading.Event()

    def long_job() -> None:
        started.set()
        try:
            while True:
                stop(1)
        except StoppedError:
            ended.set()
            raise

    def fail() -> None:
        started.wait()
        raise error

    with pytest.raises(error):
        run_jobs([long_job, fail], 2, stop)
    assert ended.is_set()


def test_an_interrupt_while_jobs_start_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, started, never, done = Stop(), threading.Event(), threading.Event(), []

    def long_job() -> None:
        started.set()
        for _ in range(10_000):  # it is waited for: what is not stopped ends some day, and the test fails
            stop(1)
            never.wait(0.001)
        done.append(0)

    def submit(pool: ThreadPoolExecutor, job: Any, submit: Any = ThreadPoolExecutor.submit) -> Any:
        if job is interrupted:
            started.wait()
            raise KeyboardInterrupt
        return submit(pool, job)

    def interrupted() -> None:
        done.append(1)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([long_job, interrupted], 2, stop)
    assert done == []
