"""Decode, batches and prompts of this checkout beside those of another one, as an older commit.

Both have their extensions built in place and run with this interpreter, each with a model file that it wrote itself.
They take turns within a tenth of a second, so that other load on the machine meets both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.checkpoints import DTYPES, SHAPES, cached_checkpoint
from benchmarks.report import Report, median
from rwkv_cy.dtypes import MATRIX_TYPES

_WORKER = Path(__file__).with_name("tree_worker.py")
#: Ends in the name of the model file, which the other checkout's own function returns.
_CACHED = "import sys; from benchmarks.checkpoints import cached_model; print(cached_model(sys.argv[1], sys.argv[2]))"
#: Types of matrices; a plus stands for activations rounded to the same type.
_ALL = (*DTYPES, "bf16+", *(name for name in MATRIX_TYPES if name not in DTYPES))


def _environment(tree: Path, threads: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "RWKV_CY_NUM_THREADS": str(threads)}


class TreeWorker:
    """A model that is open in one of the checkouts. A context manager that ends the process."""

    def __init__(self, tree: Path, shape: str, dtype: str, threads: int) -> None:
        stored = dtype.removesuffix("+")
        words = [sys.executable, "-c", _CACHED, shape, stored]
        environment = _environment(tree, threads)
        made = subprocess.run(words, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        path = tree / made.stdout.splitlines()[-1]
        rounded = "bf16" if dtype.endswith("+") else "f32"
        words = [sys.executable, str(_WORKER), str(tree), str(path), rounded, str(threads)]
        self._process = subprocess.Popen(
            words, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def seconds(self, **request: Any) -> float:
        """Return the seconds that the requested run took."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        found: float = self._answer()["seconds"]
        return found

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            sys.exit(f"exit code {self._process.wait()}; what it says stands above")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> TreeWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()


def measure(workers: list[TreeWorker], jobs: dict[str, dict[str, Any]], rounds: int) -> dict[str, list[list[float]]]:
    """Return the seconds of each job: a list for this checkout, and one for the other."""
    found: dict[str, list[list[float]]] = {job: [[], []] for job in jobs}
    order = random.Random(0)
    for _ in range(rounds):
        for job, request in jobs.items():
            for index in order.sample(range(2), 2):
                found[job][index].append(workers[index].seconds(**request))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_trees", description=__doc__)
    parser.add_argument("tree", type=Path, help="the other checkout")
    parser.add_argument("--shape", choices=SHAPES, default="169m")
    parser.add_argument("--dtypes", nargs="+", choices=_ALL, default=_ALL)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--prompts", nargs="*", type=int, default=(512,))
    parser.add_argument("--batches", nargs="*", type=int, default=(2, 4, 8, 16))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    trees = [Path().resolve(), arguments.tree.resolve()]
    for dtype in ("f32", "bf16"):  # one checkpoint for both
        path = cached_checkpoint(arguments.shape, dtype)
        theirs = trees[1] / path
        theirs.parent.mkdir(parents=True, exist_ok=True)
        if not theirs.exists():
            theirs.symlink_to(path.resolve())
    jobs: dict[str, dict[str, Any]] = {"decode": {"tokens": [7]}}
    jobs |= {f"{size} sequences": {"sequences": size} for size in arguments.batches}
    jobs |= {f"prompt of {count}": {"tokens": [1 + i % 50000 for i in range(count)]} for count in arguments.prompts}
    report = Report(
        f"RWKV {arguments.shape}: times as fast as {arguments.tree.name}",
        ("", "threads", *jobs),
        notes=[f"Medians of the ratios of {arguments.rounds} pairs, alternating; in brackets the two middle quarters."],
        values={"rows": []},
    )
    for dtype in arguments.dtypes:
        for threads in arguments.threads:
            with ExitStack() as stack:
                workers = [stack.enter_context(TreeWorker(tree, arguments.shape, dtype, threads)) for tree in trees]
                found = measure(workers, jobs, arguments.rounds)
            cells = []
            for ours, theirs_seconds in found.values():
                ratios = sorted(b / a for a, b in zip(ours, theirs_seconds, strict=True))
                quarter = len(ratios) // 4
                cells.append(f"{median(ratios):.2f} ({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})")
            report.rows.append((dtype, str(threads), *cells))
            report.values["rows"].append({"dtype": dtype, "threads": threads, "seconds": found})
    report.print(as_json=arguments.json)


if __name__ == "__main__":
    main()
