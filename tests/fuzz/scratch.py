"""Scratch folders, in memory where that is possible, of processes that end without the functions of atexit."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

__all__ = ["SCRATCH", "run_with_scratch", "scratch_parent"]

#: Names a folder that another process removes: libFuzzer ends this one without the functions of atexit.
SCRATCH = "FUZZ_SCRATCH"
#: A file system in memory, where there is one.
_MEMORY = Path("/dev/shm")


def scratch_parent() -> str | None:
    """Return the folder that scratch folders are made in; None stands for the system's temporary one."""
    return os.environ.get(SCRATCH) or (str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None)


def run_with_scratch(command: Sequence[str]) -> int:
    """Run a command with a scratch folder that is removed when it ends, however it does; return its exit code.

    Signals that end this process end the command instead.
    """
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        if process is None:
            raise SystemExit(128 + number)
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=scratch_parent()) as scratch:
        process = subprocess.Popen(command, env={**os.environ, SCRATCH: scratch})
        code = process.wait()
    return code if code >= 0 else 128 - code
