"""The machine's limits, measured by limits.c, which is compiled for this processor: arithmetic, and core to core."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["build", "exchange", "flops"]


def build(folder: Path) -> Path:
    """Compile the program into `folder` with ``$CC``, or gcc, clang or cc."""
    requested = os.environ.get("CC")
    compiler = requested or next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), None)
    if compiler is None:
        sys.exit("benchmarks: the machine's limits need a C compiler; install gcc, or name one in CC")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "limits"
    source = Path(__file__).with_name("limits.c")
    subprocess.run([compiler, "-O3", "-march=native", "-fopenmp", str(source), "-o", str(program)], check=True)
    return program


def flops(program: Path, threads: int) -> float:
    """Run the program once: fused multiply-adds in float32 per second, each counted twice; the best round."""
    output = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    return float(output.split()[0]) * 1e9


def exchange(program: Path) -> float:
    """Return the seconds that a cache line takes from one core to another, the least of several rounds.

    Where the cores have no cache in common, it takes several times as long. 0 where the process has one core.
    """
    output = subprocess.run([program, "cores"], check=True, capture_output=True, text=True).stdout
    return float(output) * 1e-9
