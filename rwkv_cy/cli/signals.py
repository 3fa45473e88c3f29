"""Signals that end the command, so that it removes its temporary files first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["ended_by_signals"]

_ENDING = (signal.SIGTERM, signal.SIGHUP)
#: Until a signal whose exception was lost comes again: what lost it has returned by then.
_AGAIN_SECONDS = 0.01


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block with SystemExit; Python itself raises KeyboardInterrupt for Ctrl-C.

    The exit code is 128 plus the signal's number, as in shells. By default these signals end the process immediately,
    and a conversion would leave its temporary file behind. A signal that is ignored (``nohup``) or has another handler
    is left alone, and so are all signals outside of the main thread.

    Python ignores an exception that is raised in ``__del__`` or in a callback of a weak reference, as h5py has them,
    and these are often what runs first after a long call of C code. A signal that is lost so comes again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    before, left = sys.unraisablehook, threading.Event()

    def report(unraisable: UnraisableHookArgs) -> None:
        number = _number_of(unraisable.exc_value)
        if number is None or left.is_set():  # it may stay in the place of another hook that was set meanwhile
            before(unraisable)
        else:
            with suppress(RuntimeError):  # the system cannot start a thread
                threading.Thread(target=_send_again, args=(number, left), daemon=True).start()

    sys.unraisablehook = report
    try:
        yield
    finally:
        left.set()
        if sys.unraisablehook is report:
            sys.unraisablehook = before
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _number_of(error: BaseException | None) -> int | None:
    """Return the signal that an exception was raised for, if it was."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    code = error.code if isinstance(error, SystemExit) else None
    return next((number for number in _ENDING if code == 128 + number), None)


def _send_again(number: int, left: threading.Event) -> None:
    if not left.wait(_AGAIN_SECONDS):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
