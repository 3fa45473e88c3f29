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
    bf16_flops : float
        The same of bf16 dot products; 0 where the CPU has none.
    """

    read_bytes: float
    flops: float
    bf16_flops: float = 0.0

    def better(self, other: Limits) -> Limits:
        """Return the better of two measurements in each respect: a limit is not lower because others were busy."""
        return Limits(
            max(self.read_bytes, other.read_bytes),
            max(self.flops, other.flops),
            max(self.bf16_flops, other.bf16_flops),
        )


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
    return Limits(*(float(number) * 1e9 for number in output.split()))
