"""From the return key to the first text and to the end, of whole processes: imports, help, inspect, generate.

The model files of RWKV-7 0.1B hold a vocabulary as large as World's. They are in the page cache, and each generates one
token.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.checkpoints import FOLDER, cached_checkpoint
from benchmarks.processes import COMMAND, environment
from benchmarks.report import Report, median
from rwkv_cy import convert, demo_model_path

_PROMPT = "In the beginning God created"
_SHAPE, _DTYPES = "7-0.1b", ("q8", "bf16")
#: Ids of the vocabulary, of which the first 256 are bytes, and the letters of a word.
_IDS, _LENGTHS = 65_529, (2, 11)
#: Targets in seconds to the first text, by the beginning of a label.
_TARGETS = {"import rwkv_cy": 0.035, "rwkv-cy --help": 0.07, "generate": 0.25, "inspect": 0.1}


@dataclass(frozen=True)
class Start:
    """One process.

    Attributes
    ----------
    first : float
        Seconds to the first byte of text; with a prompt, to the first after it.
    end : float
        Seconds to the end of the process.
    cpu : float
        CPU seconds.
    """

    first: float
    end: float
    cpu: float


def measure(command: Sequence[str], skipped: int = 0) -> Start:
    """Run a command; the first text is what follows `skipped` bytes of output."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as child:
        first, seen = None, 0
        assert child.stdout is not None
        while data := os.read(child.stdout.fileno(), 1 << 16):
            seen += len(data)
            if first is None and seen > skipped:
                first = time.perf_counter() - start
        _, status, usage = os.wait4(child.pid, 0)
        end = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or (skipped and first is None):
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}, {seen} bytes of output")
    return Start(end if first is None else first, end, usage.ru_utime + usage.ru_stime)


def commands(folder: Path) -> dict[str, tuple[Sequence[str], int]]:
    """Return the commands by label, and the bytes of output before the text that counts."""
    found: dict[str, tuple[Sequence[str], int]] = {
        "Python alone": ((sys.executable, "-c", ""), 0),
        "import numpy": ((sys.executable, "-c", "import numpy"), 0),
        "import rwkv_cy": ((sys.executable, "-c", "import rwkv_cy"), 0),
        "rwkv-cy --help": ((*COMMAND, "--help"), 0),
        "inspect, demo model": ((*COMMAND, "inspect", str(demo_model_path())), 0),
        "generate, demo model": (_generate(demo_model_path()), len(_PROMPT)),
    }
    for dtype in _DTYPES:
        path = _model(dtype, folder)
        path.read_bytes()
        found[f"inspect, {_SHAPE} {dtype}"] = (*COMMAND, "inspect", str(path)), 0
        found[f"generate, {_SHAPE} {dtype}"] = _generate(path), len(_PROMPT)
    return found


def _generate(model: Path) -> Sequence[str]:
    return (*COMMAND, "generate", str(model), _PROMPT, "--max-tokens", "1", "--seed", "1")


def _model(dtype: str, folder: Path) -> Path:
    """Return the model file with its vocabulary; converts it if it does not exist."""
    path, words = folder / f"start-{_SHAPE}-{dtype}.h5", folder / "start-vocabulary.txt"
    if not path.exists():
        source = cached_checkpoint(_SHAPE, "bf16" if dtype == "bf16" else "f32", folder)
        words.write_text(_vocabulary(), encoding="utf-8")
        convert(source, path, dtype=dtype, tokenizer=str(words))
    return path


def _vocabulary() -> str:
    """Return a vocabulary in the text format of World: all bytes, and as many words of letters as World has tokens."""
    draw = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < _IDS - 256:
        words[" " + "".join(draw.choices("etaoinshrdlu", k=draw.randint(*_LENGTHS)))] = None
    tokens = [*(repr(bytes([byte])) for byte in range(256)), *map(repr, words)]
    sizes = [*([1] * 256), *map(len, words)]
    return "".join(
        f"{number} {token} {size}\n" for number, (token, size) in enumerate(zip(tokens, sizes, strict=True), 1)
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the model files, which are kept")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only the lines that contain it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    chosen = {label: run for label, run in commands(arguments.folder).items() if arguments.only in label}
    found: dict[str, list[Start]] = {label: [] for label in chosen}
    for number in range(arguments.rounds + 1):
        for label, run in chosen.items():
            one = measure(*run)
            if number:  # the first round fills caches, and writes bytecode as installed packages have it
                found[label].append(one)
    report = Report(
        "Start",
        ("", "first text, ms", "fastest", "at most", "end, ms", "CPU, ms"),
        values={"found": {label: [vars(one) for one in runs] for label, runs in found.items()}},
        notes=[f"Medians of {arguments.rounds} rounds, alternating; a process each, from its start."],
    )
    for label, runs in found.items():
        target = next((f"{1e3 * limit:.0f}" for name, limit in _TARGETS.items() if label.startswith(name)), "")
        firsts = [one.first for one in runs]
        end, cpu = median([one.end for one in runs]), median([one.cpu for one in runs])
        report.rows.append(
            (
                label,
                f"{1e3 * median(firsts):.0f}",
                f"{1e3 * min(firsts):.0f}",
                target,
                f"{1e3 * end:.0f}",
                f"{1e3 * cpu:.0f}",
            )
        )
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
