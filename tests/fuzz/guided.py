"""Coverage-guided fuzzing of one target with atheris.

``python -m fuzz.guided TARGET CORPUS [options of libFuzzer]``, with the folders ``tests`` and ``build/fuzz`` on the
path: the latter has the module ``fuzz_trace``. The corpus is a folder; the target's seeds are added to it. A bug is
written as a file under ``-artifact_prefix`` and ends the run. libFuzzer ends the process at once, so that a process of
its own removes what is left of it, unless FUZZ_SCRATCH names a folder that somebody else removes.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
import fuzz_trace

from fuzz.scratch import SCRATCH, run_with_scratch
from fuzz.target import Target
from rwkv_cy.errors import RWKVError

#: What a file of some kilobytes may take beside what the process has at the start.
_MEMORY = 1 << 30
#: CPU time of one execution.
_SECONDS = 20.0


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached; does not return."""
    if SCRATCH not in os.environ:
        sys.exit(run_with_scratch([sys.executable, "-m", "fuzz.guided", *arguments[1:]]))
    _, name, corpus, *options = arguments
    target, folder = _instrumented(name), Path(corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    words = folder.with_suffix(".words")
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    warnings.simplefilter("error")  # as in the tests
    _limit_memory()
    command = [arguments[0], corpus, *([f"-dict={words}"] if target.words else []), *options]
    atheris.Setup(command, _runner(target), custom_mutator=_mutator(target))
    gc.collect()
    gc.freeze()  # what is there by now is not looked at again
    atheris.Fuzz()


def _instrumented(name: str) -> Target:
    """Return the target; all that its seeds reach is imported by now, and instrumented."""
    with atheris.instrument_imports(include=["rwkv_cy"]):
        from fuzz.targets import TARGETS

        for seed in TARGETS[name].seeds():
            with suppress(RWKVError):
                TARGETS[name].run(seed)
    return TARGETS[name]


def _runner(target: Target) -> Callable[[bytes], None]:
    """Return what runs the target; the first call comes when atheris has put its own functions in place."""

    def run(data: bytes) -> None:
        fuzz_trace.limit(_SECONDS)
        try:
            target.run(data)
        except RWKVError:
            return

    def first(data: bytes) -> None:
        nonlocal current
        from atheris import core_with_libfuzzer

        fuzz_trace.start(core_with_libfuzzer.__file__, atheris._reserve_counter() + 1)
        atheris._trace_branch, atheris._trace_cmp = fuzz_trace.branch, fuzz_trace.compare
        current = run
        run(data)

    current = first
    return lambda data: current(data)


def _mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that repairs every other file."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        mutated: bytes = atheris.Mutate(data, most)
        return target.repair(mutated)[:most] if seed & 1 else mutated

    return mutate


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(sys.argv)
