"""Runs a server under mixed requests, and writes a report: ``make soak``.

python -m soak [--seconds N] [--clients N] [--report FILE] [MODEL]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from soak.requests import KINDS, Clients, fixed_requests

ROOT = Path(__file__).resolve().parents[2]
#: Of the server: small, so that it is full early.
_CACHE_MIB, _SLOTS, _QUEUE = 32, 16, 400
#: The memory of the last quarter may be so much more than that of the second: pieces of freed memory, not requests.
_GROWTH, _GROWTH_MIB = 0.05, 8
_PAUSE = 2.0


@dataclass
class Sample:
    """The server at a moment."""

    seconds: float
    resident_mib: float
    cache_bytes: float
    active: float


def main() -> int:
    """Run it; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="soak", description="A server under mixed requests of many clients.")
    parser.add_argument("model", nargs="?", default=str(ROOT / "data" / "kjv7.pth"), metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "soak.md")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, served(arguments.model, folder) as (process, port):
        clients = Clients(port)
        clients.expected = [clients.fixed(number) for number in range(len(fixed_requests()))]
        samples = run(clients, process.pid, arguments.seconds, arguments.clients)
        for number, expected in enumerate(clients.expected):
            clients.check(clients.fixed(number) == expected, f"fixed request {number}: another answer at the end")
        clients.check(samples[-1].active == 1, f"{samples[-1].active:g} requests in progress at the end, not this one")
        process.send_signal(signal.SIGTERM)
        clients.check(process.wait(60) == 0, f"the server ended with {process.returncode}")
        errors = [line for line in Path(folder, "log").read_text("utf-8").splitlines() if '"event":"error"' in line]
        clients.check(not errors, f"{len(errors)} errors in the log, the first: {errors[:1]}")
    second, last = (statistics.mean(one.resident_mib for one in part) for part in quarters(samples))
    clients.check(last <= second * (1 + _GROWTH) + _GROWTH_MIB, f"memory grew from {second:.0f} to {last:.0f} MiB")
    clients.check(max(one.cache_bytes for one in samples) <= _CACHE_MIB << 20, "the cache exceeded its limit")
    text = report(clients, samples, arguments.seconds, arguments.clients, second, last)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(text, "utf-8")
    print(text)
    return 1 if clients.problems else 0


@contextmanager
def served(model: str, folder: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the server's command; yield its process and port."""
    words = [sys.executable, "-m", "rwkv_cy", "serve", model, "--port", "0", "--state-folder", folder]
    words += ["--cache", str(_CACHE_MIB), "--slots", str(_SLOTS), "--queue", str(_QUEUE)]
    with Path(folder, "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", process.stdout.readline())
            if found is None:
                raise SystemExit(f"the server did not start: {Path(folder, 'log').read_text('utf-8')}")
            yield process, int(found[1])
        finally:
            process.kill()
            process.wait()


def run(clients: Clients, pid: int, seconds: float, count: int) -> list[Sample]:
    """Send requests from many threads; return what the server was like meanwhile, and when they had ended."""
    start = time.monotonic()
    names, weights = list(KINDS), [weight for _, weight in KINDS.values()]

    def work(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() - start < seconds:
            (name,) = rng.choices(names, weights)
            try:
                KINDS[name][0](clients, rng)
            except Exception as error:
                clients.check(False, f"{name}: {type(error).__name__}: {error}")
            clients.sent[name] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    samples = []
    while any(thread.is_alive() for thread in threads):
        samples.append(sample(clients, pid, start))
        time.sleep(_PAUSE)
    deadline = time.monotonic() + 60
    while (last := sample(clients, pid, start)).active > 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    return [*samples, last]


def sample(clients: Clients, pid: int, start: float) -> Sample:
    """Return what the server is like now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    page = clients.get("/metrics")

    def figure(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    resident = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    cache = figure('rwkv_cy_cache{figure="bytes"}')
    return Sample(time.monotonic() - start, resident, cache, figure("rwkv_cy_requests_active"))


def quarters(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of the second and the last quarter of the time."""
    end = samples[-1].seconds
    second = [one for one in samples if end / 4 <= one.seconds < end / 2]
    return second or samples, [one for one in samples if one.seconds >= 3 * end / 4] or samples


def report(clients: Clients, samples: list[Sample], seconds: float, count: int, second: float, last: float) -> str:
    """Return the report as Markdown."""
    memory = f"Memory: {second:.0f} MiB in the second quarter, {last:.0f} MiB in the last; the cache held at most "
    memory += f"{max(one.cache_bytes for one in samples) / (1 << 20):.1f} of {_CACHE_MIB} MiB."
    lines = [
        f"# {sum(clients.sent.values()):,} requests of {count} clients in {seconds:g} s",
        "",
        "| Requests | Number |",
        "|---|---|",
        *(f"| {name} | {clients.sent[name]:,} |" for name in KINDS),
        "",
        memory,
        "",
        *([f"{len(clients.problems)} problems:", ""] if clients.problems else ["Nothing went wrong."]),
        *(f"- {problem}" for problem in clients.problems),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
