"""What the machine allows in fp32 arithmetic, by limits.c, compiled for the processor it runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["build", "flops"]


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


def flops(program: Path, threads: int) -> float:
    """Run the program once: fused multiply-adds in float32 a second, each counted twice; the best of some rounds."""
    output = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    return float(output.split()[0]) * 1e9
