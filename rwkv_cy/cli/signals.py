"""Signals that end the command, so that it removes its temporary files first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["ended_by_signals"]

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block with SystemExit; Python itself raises KeyboardInterrupt for Ctrl-C.

    The exit code is 128 plus the signal's number, as in shells. By default these signals end the process immediately,
    and a conversion would leave its temporary file behind. A signal that is ignored (``nohup``) or has another handler
    is left alone, and so are all signals outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
