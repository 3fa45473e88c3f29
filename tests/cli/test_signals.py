from __future__ import annotations

import signal
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from rwkv_cy.cli.signals import ended_by_signals

ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """Handlers as a command begins with them, and ends; where the tests run in the background, signals are ignored."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == dict.fromkeys(ENDING, signal.SIG_DFL)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_block(number: int) -> None:
    after = []
    with pytest.raises(SystemExit) as raised, ended_by_signals():
        after.append(signal.raise_signal(number))
    assert after == []
    assert raised.value.code == 128 + number


def test_ctrl_c_is_left_to_python() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), ended_by_signals():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


class Held:
    """What a weak reference may be to."""


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_that_a_callback_loses_comes_again(number: int) -> None:
    """Python ignores what is raised in the callback of a weak reference, where a signal may well arrive."""
    before, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    held = [Held()]
    reference = weakref.ref(held[0], lambda reference: signal.raise_signal(number))

    def lose() -> None:
        held.clear()
        threading.Event().wait(60)

    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)) as raised, ended_by_signals():
            lose()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reference() is None
    assert sys.unraisablehook is hook
    assert raised.type is KeyboardInterrupt or raised.value.code == 128 + number


def test_other_errors_that_are_lost_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    for error in (ValueError, SystemExit):
        held = [Held()]
        reference = weakref.ref(held[0], lambda reference, error=error: exec("raise error", {"error": error}))
        with ended_by_signals():
            held.clear()
        assert reference() is None
    assert lost == [ValueError, SystemExit]


def test_a_hook_that_is_left_behind_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another hook that is set meanwhile stays, and calls ours later: what is lost then is reported as before."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    with ended_by_signals():
        ours = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: ours(unraisable)
    held = [Held()]
    reference = weakref.ref(held[0], lambda reference: exec("raise KeyboardInterrupt"))
    held.clear()
    assert reference() is None
    assert lost == [KeyboardInterrupt]


def test_handlers_of_others_stay() -> None:
    heard: list[int] = []
    for number in ENDING:
        signal.signal(number, lambda number, frame: heard.append(number))
    with ended_by_signals():
        for number in ENDING:
            signal.raise_signal(number)
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    assert heard == list(ENDING)


def test_another_thread_changes_nothing() -> None:
    found: list[object] = []

    def look() -> None:
        with ended_by_signals():
            found.extend(signal.getsignal(number) for number in ENDING)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL, signal.SIG_DFL]
