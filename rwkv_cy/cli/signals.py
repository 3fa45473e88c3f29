"""Signals that end the command: none is lost, and temporary files are removed first."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ended_by_signals"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
#: How often a deferred signal checks whether it can be raised.
_LOOK_SECONDS = 0.01


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C end the block with KeyboardInterrupt, and SIGTERM and SIGHUP with SystemExit.

    The exit code is that of shells (128 plus the number). By default they end the process at once, and a
    conversion would leave its temporary file behind.

    An exception during an import can be lost: a compiled module may catch it, or raise ImportError instead. A signal
    during an import is deferred to its end; a second one is not. An exception in a destructor or in a callback of a
    weak reference, which may run anywhere, is swallowed by Python: it is raised again.

    Signals that are ignored (``nohup``) or already handled stay so, and outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGALRM)}
    ours = {number: handler for number, handler in before.items() if handler in _DEFAULTS}
    ending = _Ending(can_wait=signal.SIGALRM in ours)
    for number in reversed(ours):
        signal.signal(number, ending.look if number == signal.SIGALRM else ending.end)
    hook, sys.unraisablehook = sys.unraisablehook, ending.hear
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in ours.items():
            if number == signal.SIGALRM:  # the last one, when no other can set the timer any more
                signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(number, handler)
        ending.forget()
    ending.raise_waiting()


class _Ending:
    """Raises a signal's exception at once, or defers it."""

    def __init__(self, *, can_wait: bool) -> None:
        self._can_wait = can_wait
        self._waiting: int | None = None
        self._raised: tuple[int, BaseException] | None = None
        self._hook = sys.unraisablehook
        # The command itself may have been called by a module that is being imported.
        self._imports = _count_imports(sys._getframe())

    def end(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that ends the command."""
        wait = self._can_wait and self._waiting is None and self._is_importing(frame)
        self._waiting = number
        if wait:
            self._look_soon()
        else:
            self.raise_waiting()

    def look(self, number: int, frame: FrameType | None) -> None:
        """Handle the timer's signal."""
        if not self._is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.raise_waiting()

    def hear(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Handle an exception that Python would ignore: that of a signal is deferred and raised again."""
        if self._raised is None or unraisable.exc_value is not self._raised[1]:
            self._hook(unraisable)
            return
        self._waiting = self._raised[0]
        self._look_soon()

    def raise_waiting(self) -> None:
        """Raise the exception of the deferred signal, if there is one."""
        number, self._waiting = self._waiting, None
        if number is not None:
            error = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
            self._raised = number, error
            raise error

    def forget(self) -> None:
        """Release the raised exception: its traceback references all frames, and with them a model."""
        self._raised = None

    def _look_soon(self) -> None:
        if self._can_wait:
            signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)

    def _is_importing(self, frame: FrameType | None) -> bool:
        return _count_imports(frame) > self._imports


def _count_imports(frame: FrameType | None) -> int:
    """Return how many imports a frame is part of."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count
