"""Other processes: their run time, anonymous memory and exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMAND", "Run", "anonymous_bytes", "environment", "resident_bytes", "run"]

_SAMPLE_SECONDS = 0.002
#: What pip writes as the script ``rwkv-cy``.
COMMAND = (sys.executable, "-c", "import sys; from rwkv_cy.__main__ import main; sys.exit(main())")


@dataclass(frozen=True)
class Run:
    """Resources that a command used.

    Attributes
    ----------
    seconds : float
        From its start to its end.
    anonymous_bytes : int
        The most anonymous memory (RssAnon) that it was seen with, sampled every 2 ms: what the process allocated,
        without pages of mapped files.
    code : int
        Its exit code.
    errors : str
        What it wrote to standard error.
    """

    seconds: float
    anonymous_bytes: int
    code: int = 0
    errors: str = ""


def run(command: Sequence[str], *, sample: bool = False, check: bool = True) -> Run:
    """Run a command to its end, in :func:`environment`; its output is discarded.

    Parameters
    ----------
    command : sequence of str
    sample : bool
        Whether to watch its memory. Costs a core 1 % of its time.
    check : bool, default True
        Whether this program exits if the command fails.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment()) as child:
        peak = 0
        while sample and child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(_SAMPLE_SECONDS)
        _, raw = child.communicate()
    seconds = time.perf_counter() - start
    errors = raw.decode(errors="replace").strip()
    if check and child.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}: {errors}")
    return Run(seconds, peak, child.returncode, errors)


def environment() -> dict[str, str]:
    """Return the environment for commands that may write bytecode, as installed packages have it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def anonymous_bytes(pid: int | str = "self") -> int:
    """Return RssAnon of a process, 0 if it has ended."""
    return _status(pid, "RssAnon")


def resident_bytes(*, peak: bool = False) -> int:
    """Return the memory of this process, with its pages of mapped files: now, or the most it has had."""
    return _status("self", "VmHWM" if peak else "VmRSS")


def _status(pid: int | str, field: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
