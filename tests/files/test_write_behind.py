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
