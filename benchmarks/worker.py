"""One contender in a separate process: ``Worker`` starts it and sends requests, ``main`` runs in it and replies.

The number of threads is fixed at its start, because some contenders read it from the environment. Requests and replies
are lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.contenders import CONTENDERS, Forward, Task
from benchmarks.processes import anonymous_bytes, resident_bytes

__all__ = ["Worker"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RWKV_CY_NUM_THREADS")


class Worker:
    """A contender that has opened a model and waits for requests. A context manager that ends the process.

    Parameters
    ----------
    contender : str
        One of ``CONTENDERS``.
    path : Path
        The model.
    dtype : str
        For those who convert what they open.
    threads : int
    python : str, optional
        Another interpreter, which has the contender's package.
    library : Path, optional
        The shared library of a contender that is one.

    Attributes
    ----------
    opening : dict
        ``import_seconds``, ``imported_bytes`` (anonymous memory after the imports), ``imported_resident_bytes`` (all
        memory then), ``load_seconds`` and ``loaded_bytes``.
    """

    def __init__(
        self,
        contender: str,
        path: Path,
        dtype: str,
        threads: int,
        python: str | None = None,
        library: Path | None = None,
    ) -> None:
        task = Task(str(path), dtype, threads, None if library is None else str(library))
        command = [python or sys.executable, "-m", "benchmarks.worker", contender, json.dumps(asdict(task))]
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        self._name = contender
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.opening: dict[str, float] = self._answer()

    def seconds(self, tokens: Sequence[int], *, keep_state: bool) -> float:
        """Return the seconds of one forward, which continues from the previous state or starts anew."""
        result: float = self._ask(tokens=list(tokens), keep_state=keep_state)["seconds"]
        return result

    def logits(self, tokens: Sequence[int]) -> list[float]:
        """Return the logits after `tokens`, from the initial state."""
        result: list[float] = self._ask(tokens=list(tokens), keep_state=False, logits=True)["logits"]
        return result

    def peak_bytes(self) -> int:
        """Return the most memory that the process has had, with its pages of mapped files."""
        result: int = self._ask(memory=True)["peak_bytes"]
        return result

    def _ask(self, **question: Any) -> dict[str, Any]:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            sys.exit(f"{self._name}: it ended with exit code {self._process.wait()}; what it says stands above")
        result: dict[str, Any] = json.loads(line)
        return result

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()


def _open(contender: str, task: Task) -> tuple[Forward, dict[str, float]]:
    start = time.perf_counter()
    for module in CONTENDERS[contender].modules:
        importlib.import_module(module)
    imported = time.perf_counter()
    imported_bytes, imported_resident_bytes = anonymous_bytes(), resident_bytes()
    loading = time.perf_counter()
    forward = CONTENDERS[contender].open(task)
    loaded = time.perf_counter()
    return forward, {
        "import_seconds": imported - start,
        "imported_bytes": imported_bytes,
        "imported_resident_bytes": imported_resident_bytes,
        "load_seconds": loaded - loading,
        "loaded_bytes": anonymous_bytes(),
    }


def main() -> None:
    contender, task = sys.argv[1:]
    answers = sys.stdout
    # Output that a contender prints while it loads must not be taken for a reply.
    verbose = os.environ.get("BENCHMARKS_VERBOSE")
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(sys.stderr if verbose else nowhere):
        forward, opening = _open(contender, Task(**json.loads(task)))
        print(json.dumps(opening), file=answers, flush=True)
        state: Any = None
        for line in sys.stdin:
            question = json.loads(line)
            if question.get("memory"):
                print(json.dumps({"peak_bytes": resident_bytes(peak=True)}), file=answers, flush=True)
                continue
            if not question["keep_state"]:
                state = None
            start = time.perf_counter()
            logits, state = forward(question["tokens"], state)
            answer: dict[str, Any] = {"seconds": time.perf_counter() - start}
            if question.get("logits"):
                answer["logits"] = [float(value) for value in logits]
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
