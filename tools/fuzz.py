"""Runs the fuzz targets one after another until each has so many executions, and prints what came of it as a table.

``python tools/fuzz.py [--runs N] [--seconds S] [--only NAME ...] [--table]``, with the interpreter that has atheris.
Corpora, logs, inputs that break something and the counts are in ``build/fuzz``; a run that is ended goes on where it
was. Targets are those of ``tests/fuzz/targets.py``, and the programs in ``build/fuzz/bin``, which libFuzzer is linked
to.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "fuzz"
TESTS = ROOT / "tests"
RESULTS = FOLDER / "results.json"
FINDINGS = TESTS / "fuzz" / "findings"

#: Longest time of one execution in seconds, and most memory in MB. The targets limit their CPU time themselves, to 20
#: seconds; this ends one that waits, and is far above the time for which a process may be stopped.
LIMITS = ("-timeout=1200", "-rss_limit_mb=2048")
#: Longest input of a C target. Others are as long as the longest file of the corpus.
C_BYTES = 2048
#: Memory that was freed is used again soon: cold memory takes longer than the code that runs.
_ASAN = "quarantine_size_mb=8"
COLUMNS = ("target", "executions", "CPU seconds", "a second", "corpus", "edges", "inputs kept")


def targets() -> dict[str, list[str]]:
    """Return the command of each target by its name, without the options of libFuzzer."""
    names = subprocess.run(
        [sys.executable, "-c", "from fuzz.targets import TARGETS as T; print(*(name for name in T if T[name].guided))"],
        check=True,
        capture_output=True,
        text=True,
        env=_environment(),
        cwd=ROOT,
    ).stdout.split()
    found = {name: [sys.executable, "-m", "fuzz.guided", name, str(_corpus(name))] for name in names}
    for program in sorted((FOLDER / "bin").glob("*")):
        name = f"c-{program.name}"
        found[name] = [str(program), str(_corpus(name)), f"-max_len={C_BYTES}"]
    return found


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), str(ROOT), str(FOLDER)])
    own = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "RUST_BACKTRACE": "0", "ASAN_OPTIONS": _ASAN}
    return {**os.environ, **own}


def _fast_folder() -> str | None:
    """Return a folder in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _corpus(name: str) -> Path:
    return FOLDER / "corpus" / name


def run(name: str, command: list[str], runs: int, seconds: int) -> bool:
    """Run a target for so many executions, or seconds, and add them to the results; return whether nothing broke."""
    corpus, log = _corpus(name), FOLDER / "logs" / f"{name}.log"
    artifacts = FOLDER / "broken" / name
    for folder in (corpus, log.parent, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={runs}", f"-artifact_prefix={artifacts}/", "-print_final_stats=1", *LIMITS]
    options += [f"-max_total_time={seconds}"] if seconds else []
    begin = _cpu_seconds()
    # libFuzzer ends a process without its exit functions, so that it cannot remove its files itself.
    with log.open("wb") as output, TemporaryDirectory(prefix="fuzz-", dir=_fast_folder()) as scratch:
        environment = {**_environment(), "FUZZ_SCRATCH": scratch}
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )
        try:
            code = process.wait()
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, SystemExit):  # a terminal sends Ctrl-C to both, SIGTERM goes to one
                process.terminate()
            process.wait()
            _add(name, log, _cpu_seconds() - begin)
            raise
    _add(name, log, _cpu_seconds() - begin)
    if code:
        print(f"{name}: ended with code {code}: see {log} and {artifacts}", flush=True)
    return not code


def _cpu_seconds() -> float:
    """Return the CPU time of all processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _add(name: str, log: Path, seconds: float) -> None:
    """Add what a log says to the results."""
    text = log.read_text("utf-8", "replace")
    counted = re.findall(r"^(?:stat::number_of_executed_units:\s*|#)(\d+)", text, re.MULTILINE)
    edges = re.findall(r"\bcov: (\d+)", text)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = results.setdefault(name, {"executions": 0, "seconds": 0, "edges": 0})
    known["executions"] += max(map(int, counted), default=0)
    known["seconds"] = round(known["seconds"] + seconds)
    known["edges"] = max([known["edges"], *map(int, edges)])
    RESULTS.write_text(json.dumps(results, indent=1))


def done(name: str) -> int:
    """Return the executions of a target so far."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return int(results.get(name, {}).get("executions", 0))


def table(names: list[str]) -> str:
    """Return the results as a table in Markdown."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    for name in names:
        if name not in results:
            continue
        found = results[name]
        rate = found["executions"] / max(found["seconds"], 1)
        corpus = sum(1 for _ in _corpus(name).glob("*"))
        kept = sum(1 for _ in (FINDINGS / name).glob("*"))
        counts = found["executions"], found["seconds"], round(rate), corpus, found["edges"], kept
        rows.append((name, *(f"{count:,}" for count in counts)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    """Run what is requested; 1 if something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target, in all")
    parser.add_argument("--seconds", type=int, default=0, help="at most so long for each target, this time")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these targets")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    commands = targets()
    unknown = set(arguments.only) - set(commands)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: expected a target, one of {', '.join(commands)}")
    sound = True
    for name, command in commands.items():
        if arguments.table or (arguments.only and name not in arguments.only):
            continue
        left = arguments.runs - done(name)
        if left > 0:
            print(f"{name}: {left:,} executions", flush=True)
            sound &= run(name, command, left, arguments.seconds)
    print(table(list(commands)))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
