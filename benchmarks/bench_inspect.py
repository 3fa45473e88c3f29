"""``rwkv-cy inspect`` of a 13B model in each format: time of the whole process, and its peak memory."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import FOLDER
from benchmarks.processes import COMMAND, environment
from benchmarks.report import Report, median
from benchmarks.sparse import LARGE_SHAPES, write_sparse

_LIMIT_SECONDS = 0.1
_SHAPE = "7-13b"
#: Runs a command and prints seconds, CPU seconds, peak resident memory and exit code. The peak of a process is never
#: below that of the process that starts it, so that it has to be a small one.
_STARTER = """
import os, sys, time
null = os.open(os.devnull, os.O_WRONLY)
quiet = [(os.POSIX_SPAWN_DUP2, null, stream) for stream in (1, 2)]
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(seconds, cpu, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status))
"""


#: Name within the folder, type of the matrices and tokenizer, by label. Each file is in a folder of its own, so that a
#: vocabulary beside it is its own.
_FILES = {
    "model file, bf16": ("h5/13b.h5", "bf16", "none"),
    "model file, q4": ("q4/13b.h5", "q4", "none"),
    ".pth, bf16": ("pth/13b.pth", "bf16", "none"),
    ".safetensors, bf16": ("safetensors/13b.safetensors", "bf16", "none"),
    "web-rwkv .st, f16": ("st/13b.st", "f16", "none"),
    "GGUF, q4_k": ("gguf/13b.gguf", "q4_k", "auto"),
    "rwkv.cpp .bin, q5_1": ("bin/13b.bin", "q5_1", "none"),
    "Hugging Face folder, shards, bf16": ("hf/13b", "bf16", "auto"),
}


def measure(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, list[tuple[float, float, int]]]:
    """Run the commands alternately; return seconds, CPU seconds and peak resident memory of each run.

    One round is not counted: it writes the bytecode, as installed packages have it.
    """
    found: dict[str, list[tuple[float, float, int]]] = {label: [] for label in commands}
    for number in range(rounds + 1):
        for label, command in commands.items():
            starter = (sys.executable, "-I", "-S", "-c", _STARTER, *command)
            printed = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True, env=environment()).stdout
            seconds, cpu, peak, code = printed.split()
            if code != "0":
                sys.exit(f"{' '.join(command)}: exit code {code}")
            if number:
                found[label].append((float(seconds), float(cpu), int(peak)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_inspect", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=FOLDER / "sparse", help="of the files, which take no space")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    commands: dict[str, Sequence[str]] = {
        "Python alone": (sys.executable, "-c", ""),
        "Python and NumPy": (sys.executable, "-c", "import numpy"),
    }
    sizes = {}
    for label, (name, dtype, tokenizer) in _FILES.items():
        path = arguments.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sparse(path, LARGE_SHAPES[_SHAPE], dtype, tokenizer)
        commands[label] = (*COMMAND, "inspect", str(path))
        members = path.iterdir() if path.is_dir() else (path,)
        sizes[label] = sum(member.stat().st_size for member in members)
    found = measure(commands, arguments.rounds)
    report = Report(
        "Inspecting RWKV-7 13.3B, headers only",
        ("", "size, GB", "seconds, median", "fastest", "CPU seconds, median", "peak memory, MB"),
        values={"found": found, "sizes": sizes, "limits": {"seconds": _LIMIT_SECONDS}},
        notes=[
            f"{arguments.rounds} rounds, alternating; a process each, from its start to its end, output discarded.",
            f"Limit: {_LIMIT_SECONDS} s.",
        ],
    )
    for label, runs in found.items():
        seconds, cpu, peaks = zip(*runs, strict=True)
        size = f"{sizes[label] / 1e9:.1f}" if label in sizes else ""
        times = (f"{value:.3f}" for value in (median(seconds), min(seconds), median(cpu)))
        report.rows.append((label, size, *times, f"{max(peaks) / 1e6:.0f}"))
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
