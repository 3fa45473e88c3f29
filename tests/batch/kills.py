"""Kills batches at random moments: processes, tasks, actors, nodes and whole jobs. ``make test-kills``.

python -m batch.kills [--kills N] [--only KIND]... [--seconds S] [--counts FILE] [--write PAGE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from batch.helpers import children, contents, records, write_jsonl
from faults.table import replace_between
from rwkv_cy.batch import GenerateTask, LocalProcesses, run_batch
from rwkv_cy.batch.workers import Workers
from rwkv_cy.errors import StorageError
from rwkv_cy.model.language_model import load

__all__ = ["KINDS", "Row", "campaign", "table"]

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "data" / "kjv.pth"
TASK = GenerateTask(max_tokens=24, slots=4)
RECORDS, BLOCK = 80, 4
#: Kills of a batch.
_MOST_KILLS = 3
#: CPUs of a node: two for an actor and one for tasks that read. Ray reads in the actors if they reserve one each.
_NODE_CPUS = 3
_RUNS = 4
#: How the processes call themselves that run tasks: parts of the datasets, or nothing at the moment.
_TASK_TITLES = ("ray::IDLE", "ray::MapBatches(_read)", "ray::ReadRange")
_COLUMNS = ("killed", "place", "kills", "batches", "went on", "run again", "outputs equal", "problems")


@dataclass
class Row:
    """What came of the kills of a kind: in how many batches, and how many of these did what.

    Attributes
    ----------
    seconds : float or None
        That an undisturbed run takes.
    """

    kind: str
    seconds: float | None = None
    kills: int = 0
    batches: int = 0
    went_on: int = 0
    run_again: int = 0
    equal: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of kill.

    Attributes
    ----------
    name, place : str
    victims : callable
        Returns the processes of which one is killed; given the process of the job.
    ends_run : bool
        Whether the victim is the job, so that it does not go on.
    runs_apart : bool
        Whether the job is a process of its own.
    processes : int
        Of a local batch.
    """

    name: str
    place: str
    victims: Callable[[int, Any], Sequence[int]]
    ends_run: bool = False
    runs_apart: bool = True
    processes: int = 2


def _raylets(nodes: Iterable[Any]) -> list[int]:
    """Return the processes of the nodes that run."""
    processes = [node.all_processes["raylet"][0].process for node in nodes]
    return [process.pid for process in processes if process.poll() is None]


def _ray_workers(cluster: Any, *, actors: bool) -> list[int]:
    """Return the processes of a cluster that answer blocks, or those that run tasks or wait for one."""
    found = []
    for pid in sorted(pid for raylet in _raylets(cluster.list_all_nodes()) for pid in children(raylet)):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith("ray::MapWorker") if actors else title.startswith(_TASK_TITLES):
            found.append(pid)
    return found


KINDS = (
    Kind("the only process", "local", lambda job, _: [job], ends_run=True, processes=1),
    Kind("one of two processes", "local", lambda job, _: sorted(children(job))),
    Kind("the job of two processes", "local", lambda job, _: [job], ends_run=True),
    Kind("a worker of tasks", "Ray", lambda _, cluster: _ray_workers(cluster, actors=False), runs_apart=False),
    Kind("an actor", "Ray", lambda _, cluster: _ray_workers(cluster, actors=True), runs_apart=False),
    Kind("a node (its raylet)", "Ray", lambda _, cluster: _raylets(cluster.worker_nodes), runs_apart=False),
    Kind("the job", "Ray", lambda job, _: [job], ends_run=True),
)


class Bench:
    """An input, the output of an undisturbed run, and a cluster for kinds on Ray."""

    def __init__(self, folder: Path, cluster: Any = None) -> None:
        self.folder = folder
        self.cluster = cluster
        self.source = write_jsonl(folder / "in.jsonl", [*records(count=RECORDS), "{"])
        run_batch(load(MODEL), self.source, folder / "whole", TASK, block_rows=BLOCK, path=MODEL)
        self.expected = contents(folder / "whole")
        self._count = 0

    def kill(self, kind: Kind, most: int, rng: random.Random, row: Row) -> None:
        """Take a batch to its end, kill on the way at most so many times, and add what came of it to the row."""
        if row.seconds is None:
            row.seconds = min(self._undisturbed(kind) for _ in range(1 if kind.runs_apart else 2))
        out, kills, code = self._new(), 0, -1
        moments = [rng.uniform(0, row.seconds) for _ in range(most)]
        for run in [[one] for one in moments] if kind.ends_run else [sorted(moments)]:
            if code != 0:
                job = self.start(kind, out) if kind.runs_apart else None
                killer = _Killer(kind, run, rng, self.cluster, os.getpid() if job is None else job.pid)
                code = self.run(kind, out) if job is None else job.wait()
                kills += killer.stop()
        if not kills:
            return
        row.batches += 1
        row.kills += kills
        row.went_on += code == 0 and not kind.ends_run
        row.run_again += code != 0 or kind.ends_run
        for _ in range(_RUNS):
            if code == 0:
                break
            code = self.run(kind, out)
        same = contents(out) == self.expected
        row.equal += same
        if code != 0 or not same:
            row.problems.append(f"{kind.name}: killed after {moments} s: exit code {code}, equal: {same}")
        if "node" in kind.name:
            self._replace_nodes()

    def _undisturbed(self, kind: Kind) -> float:
        """Return how long an undisturbed run takes; on Ray, the first one starts more than the others."""
        start = time.monotonic()
        self.run(kind, self._new())
        return time.monotonic() - start

    def run(self, kind: Kind, out: Path) -> int:
        """Run a batch to its end; return its exit code."""
        if kind.runs_apart:
            return self.start(kind, out).wait()
        return job(self.source, out, _on_ray(self.cluster.address))

    def start(self, kind: Kind, out: Path) -> subprocess.Popen[bytes]:
        """Start a batch in a process of its own."""
        place = self.cluster.address if kind.place == "Ray" else str(kind.processes)
        return subprocess.Popen([sys.executable, "-m", "batch.kills", "--job", str(self.source), str(out), place])

    def _new(self) -> Path:
        self._count += 1
        return self.folder / f"out-{self._count}"

    def _replace_nodes(self) -> None:
        for node in list(self.cluster.worker_nodes):
            if node.all_processes["raylet"][0].process.poll() is not None:
                self.cluster.remove_node(node, allow_graceful=False)
                self.cluster.add_node(num_cpus=_NODE_CPUS)
        self.cluster.wait_for_nodes()


class _Killer:
    """A thread that kills a victim at each moment, or as soon as there is one."""

    def __init__(self, kind: Kind, moments: Sequence[float], rng: random.Random, cluster: Any, job: int) -> None:
        self._killed = 0
        self._over = threading.Event()
        self._arguments = kind, rng, cluster, job
        self._thread = threading.Thread(target=self._run, args=(moments,), daemon=True)
        self._thread.start()

    def _run(self, moments: Sequence[float]) -> None:
        start = time.monotonic()
        for moment in moments:
            self._over.wait(max(0, start + moment - time.monotonic()))
            while not self._over.is_set() and not self._kill():
                self._over.wait(0.005)

    def _kill(self) -> bool:
        kind, rng, cluster, job = self._arguments
        victims = kind.victims(job, cluster)
        if victims:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(victims), signal.SIGKILL)
                self._killed += 1
                return True
        return False

    def stop(self) -> int:
        """Return how many it has killed."""
        self._over.set()
        self._thread.join()
        return self._killed


def job(source: Path, out: Path, workers: Workers | None) -> int:
    """Run a batch; return 0 if it is complete."""
    try:
        report = run_batch(load(MODEL), source, out, TASK, block_rows=BLOCK, path=MODEL, workers=workers)
    except StorageError as error:
        print(error, file=sys.stderr)
        return 3
    return 0 if report.complete else 1


def _on_ray(address: str) -> Workers:
    from rwkv_cy.batch.on_ray import RayActors

    return RayActors(MODEL, address, actors=2)


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Start a head and two nodes as processes of this machine, and connect to them."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": _NODE_CPUS, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=_NODE_CPUS)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def campaign(
    bench: Bench, kind: Kind, kills: int, end: float, rng: random.Random, row: Row, save: Callable[[], None]
) -> None:
    """Kill a kind until its row has so many kills, or until a time of the monotonic clock; saved after each."""
    while row.kills < kills and time.monotonic() < end:
        bench.kill(kind, min(_MOST_KILLS, kills - row.kills), rng, row)
        save()
        print(f"{kind.name}: {row.kills} of {kills}, {len(row.problems)} problems", file=sys.stderr, flush=True)


def table(rows: dict[str, Row]) -> str:
    """Return the rows in Markdown."""
    lines = [" | ".join(_COLUMNS), " | ".join(["---", "---", *["--:"] * 6])]
    for kind in KINDS:
        row = rows.get(f"{kind.place}: {kind.name}")
        if row is not None:
            cells = (
                kind.name,
                kind.place,
                row.kills,
                row.batches,
                row.went_on,
                row.run_again,
                row.equal,
                len(row.problems),
            )
            lines.append(" | ".join(map(str, cells)))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="batch.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="of each kind (default: 30)")
    parser.add_argument("--only", metavar="KIND", action="append", default=[], help="a kind, or local or Ray")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="begin no kill after S seconds")
    parser.add_argument(
        "--counts", type=Path, metavar="FILE", help="the counts of earlier runs, which count; and of this one"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page of the documentation")
    parser.add_argument("--job", nargs=3, metavar=("INPUT", "OUT", "PLACE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        source, out, place = arguments.job
        local = place.isdecimal()
        workers = (LocalProcesses(MODEL, int(place)) if place != "1" else None) if local else _on_ray(place)
        return job(Path(source), Path(out), workers)
    kinds = [kind for kind in KINDS if not arguments.only or {kind.name, kind.place} & set(arguments.only)]
    rng, end = random.Random(), time.monotonic() + arguments.seconds
    rows: dict[str, Row] = {}
    if arguments.counts and arguments.counts.exists():
        rows = {name: Row(**row) for name, row in json.loads(arguments.counts.read_text()).items()}

    def save() -> None:
        if arguments.counts:
            arguments.counts.write_text(json.dumps({name: asdict(row) for name, row in rows.items()}))

    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        needs_ray = any(kind.place == "Ray" for kind in kinds)
        bench = Bench(folder, stack.enter_context(ray_cluster()) if needs_ray else None)
        for kind in kinds:
            row = rows.setdefault(f"{kind.place}: {kind.name}", Row(kind.name))
            campaign(bench, kind, arguments.kills, end, rng, row, save)
    if arguments.write is not None:
        replace_between(arguments.write, "kills", table(rows))
    print(table(rows))
    for row in rows.values():
        for problem in row.problems:
            print(f"PROBLEM {problem}", file=sys.stderr)
    return 1 if any(row.problems for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
