"""What the machine allows: read bandwidth and fp32 arithmetic, by limits.c, compiled for the processor it runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "build", "measure"]


@dataclass(frozen=True)
class Limits:
    """The best of some rounds.

    Attributes
    ----------
    read_bytes : float
        Bytes a second that the threads together read of 1 GiB in pages of 2 MiB.
    flops : float
        Fused multiply-adds in float32 a second, each counted twice.
    """

    read_bytes: float
    flops: float

    def better(self, other: Limits) -> Limits:
        """Return the better of two measurements in each respect: a limit is not lower because others were busy."""
        return Limits(max(self.read_bytes, other.read_bytes), max(self.flops, other.flops))


def build(folder: Path) -> Path:
    """Compile the program into `folder` with ``$CC``, or gcc, clang or cc."""
    asked = os.environ.get("CC")
    compiler = asked or next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), None)
    if compiler is None:
        sys.exit("benchmarks: the machine's limits need a C compiler; install gcc, or name one in CC")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "limits"
    source = Path(__file__).with_name("limits.c")
    subprocess.run([compiler, "-O3", "-march=native", "-fopenmp", str(source), "-o", str(program)], check=True)
    return program


def measure(program: Path, threads: int) -> Limits:
    """Run the program once."""
    output = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    gigabytes, gigaflops = map(float, output.split())
    return Limits(gigabytes * 1e9, gigaflops * 1e9)
