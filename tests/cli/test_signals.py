from __future__ import annotations

import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rwkv_cy.cli.signals import ended_by_signals

ENDING = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit}
Import = Callable[..., bool]


@pytest.fixture(autouse=True)
def defaults() -> Iterator[dict[int, object]]:
    """Handlers as a command begins with them, and ends; where the tests run in the background, signals are ignored."""
    usual = {number: signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in ENDING}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield usual
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == usual
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.fixture
def import_raising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    """Import a module that sends signals while it is imported and catches everything; tell whether it caught any."""

    def call(*numbers: int) -> bool:
        (tmp_path / "swallowing.py").write_text(
            "import signal\n"
            "caught = False\n"
            "try:\n"
            f"    for number in {list(map(int, numbers))}:\n"
            "        signal.raise_signal(number)\n"
            "except BaseException:\n"
            "    caught = True\n"
        )
        return bool(importlib.import_module("swallowing").caught)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "swallowing", raising=False)
    return call


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_raised(number: int) -> None:
    after = []
    with pytest.raises(ENDING[number]) as raised, ended_by_signals():
        after.append(signal.raise_signal(number))
    assert after == []
    assert number == signal.SIGINT or raised.value.code == 128 + number


@pytest.mark.parametrize("number", ENDING)
def test_in_an_import_it_waits_for_the_end_of_it(number: int, import_raising: Import) -> None:
    caught, seconds = False, 60

    def work() -> None:
        nonlocal caught
        caught = import_raising(number)
        time.sleep(seconds)

    begin = time.monotonic()
    with pytest.raises(ENDING[number]) as raised, ended_by_signals():
        work()
    assert not caught
    assert time.monotonic() - begin < seconds
    assert number == signal.SIGINT or raised.value.code == 128 + number


@pytest.mark.parametrize("number", ENDING)
def test_it_is_raised_at_the_end_of_the_block_at_the_latest(number: int, import_raising: Import) -> None:
    with pytest.raises(ENDING[number]), ended_by_signals():
        import_raising(number)


@pytest.mark.parametrize("number", ENDING)
def test_one_that_a_destructor_swallows_is_raised_again(number: int) -> None:
    class Swallowing:
        def __del__(self) -> None:
            signal.raise_signal(number)

    hook = sys.unraisablehook
    with pytest.raises(ENDING[number]) as raised, ended_by_signals():
        Swallowing()
    assert number == signal.SIGINT or raised.value.code == 128 + number
    assert sys.unraisablehook is hook


def test_what_others_cannot_raise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError("of a destructor")

    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(str(unraisable.exc_value)))
    with ended_by_signals():
        Failing()
    assert told == ["of a destructor"]


def test_the_second_one_does_not_wait(import_raising: Import) -> None:
    with ended_by_signals():
        assert import_raising(signal.SIGINT, signal.SIGINT)


def test_a_command_that_is_run_by_an_import_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "commanding.py").write_text(
        "import signal\n"
        "from rwkv_cy.cli.signals import ended_by_signals\n"
        "with ended_by_signals():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    raise AssertionError('the block went on')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("commanding")


def test_handlers_of_others_stay() -> None:
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in ENDING}
    timer = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with ended_by_signals():
            for number in ENDING:
                signal.raise_signal(number)
            assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally:
        for number, handler in {**before, signal.SIGALRM: timer}.items():
            signal.signal(number, handler)
    assert heard == list(ENDING)


def test_without_the_timer_nothing_waits(import_raising: Import) -> None:
    timer = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with ended_by_signals():
            assert import_raising(signal.SIGINT)
    finally:
        signal.signal(signal.SIGALRM, timer)


def test_another_thread_changes_nothing(defaults: dict[int, object]) -> None:
    found: list[dict[int, object]] = []

    def look() -> None:
        with ended_by_signals():
            found.append({number: signal.getsignal(number) for number in ENDING})

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [defaults]
