"""Writes in a separate thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rwkv_cy.files.write_behind import WriteBehind


def refuse(*arguments: Any) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("threads", [True, False])
def test_writes_are_done_in_their_order(threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not threads:
        monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    done: list[int] = []
    with WriteBehind() as behind:
        for number in range(20):
            behind.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        behind.wait()
        assert done == list(range(20))


def test_at_most_one_write_is_under_way_when_the_next_is_made() -> None:
    going_on, done = threading.Event(), []
    with WriteBehind() as behind:
        behind.submit(lambda: (going_on.wait(), done.append(1))[0])
        threading.Timer(0.01, going_on.set).start()
        behind.submit(lambda: None)  # returns when the first one is done
        assert done == [1]


def test_an_error_is_raised_at_the_next_write_or_the_end() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with WriteBehind() as behind:
        behind.submit(fail)
        with pytest.raises(OSError, match="No space"):
            behind.submit(lambda: None)
        behind.submit(fail)
        with pytest.raises(OSError, match="No space"):
            behind.wait()
        behind.wait()


def test_a_write_whose_thread_did_not_start_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor keeps it in its queue, where a thread that starts later would find it."""
    start, refused = threading.Thread.start, [True]

    def refuse_the_first(thread: threading.Thread) -> None:
        if refused.pop() if refused else False:
            refuse()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_first)
    done: list[int] = []
    with WriteBehind() as behind:
        for number in range(5):
            behind.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        behind.wait()
    assert not refused
    assert done == list(range(5))


def test_an_interrupt_waits_for_the_write_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, done = threading.Event(), []
    shutdown, interrupts = ThreadPoolExecutor.shutdown, [True, True]

    def interrupted(pool: ThreadPoolExecutor, *arguments: Any, **options: Any) -> None:
        if interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        going_on.set()
        shutdown(pool, *arguments, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind.submit(lambda: (going_on.wait(), done.append(1))[0])
    assert done == [1]
