"""Campaigns: every operation is killed, or meets a failing disk, at many moments; what it leaves is compared."""

from __future__ import annotations

import errno
import mmap
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from faults.moments import Bench, Ended, Tree, ended, tree
from faults.operations import NEW, OLD
from faults.preload import Action, Fault, Kind

__all__ = ["CAMPAIGNS", "Campaign", "Outcome", "kill_moments"]

_T = TypeVar("_T")
_SYSTEM = 3  # the exit code of what the operating system refuses
_SPACE = "not enough disk space: need "
_NEEDS_SPACE = Kind.CREATE | Kind.RESERVE | Kind.WRITE | Kind.SYNC | Kind.RENAME


@dataclass
class Outcome:
    """What a campaign saw of one operation: how many moments, and how often what was left."""

    moments: int = 0
    left: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        """Count one moment."""
        self.moments += 1
        self.left[what] += 1


@dataclass(frozen=True)
class Campaign:
    """A kind of fault.

    Attributes
    ----------
    name : str
    promise : str
        What is there afterwards.
    moments : int
        How many moments of each operation a long run takes, if it has so many.
    run : callable
        ``run(bench, moments)``; problems are noted in the bench. None where the machine cannot.
    """

    name: str
    promise: str
    moments: int
    run: Callable[[Bench, int], Outcome | None]


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Return `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _moments(kinds: Sequence[Kind], count: int) -> list[int]:
    """Return the numbers of about `count` calls: every rename, and other calls and writes half each, evenly spread."""
    chosen = [n for n, kind in enumerate(kinds) if kind == Kind.RENAME]
    writes = [n for n, kind in enumerate(kinds) if kind == Kind.WRITE]
    others = [n for n, kind in enumerate(kinds) if kind not in (Kind.RENAME, Kind.WRITE)]
    left = max(count - len(chosen), 2)
    chosen += _spread(others, max(left // 2, left - len(writes)))
    return sorted(chosen + _spread(writes, max(count - len(chosen), 1)))


def kill_moments(kinds: Sequence[Kind], count: int) -> list[Fault]:
    """Return about `count` faults that kill before a system call, or in the middle of a write, and after it."""
    return [
        Fault(action, at)
        for at in _moments(kinds, count // 2)
        for action in ((Action.KILL_HALF if kinds[at] == Kind.WRITE else Action.KILL_BEFORE), Action.KILL_AFTER)
    ]


def _existing(bench: Bench) -> tuple[bool, ...]:
    """Return whether an older target is there: for half of the moments it is, if it can be replaced."""
    return (True, False) if bench.operation.replaces else (False,)


def _check_left(bench: Bench, moment: object, child: Ended, older: bool, allowed: Sequence[str]) -> str:
    found = bench.found(older)
    if found not in allowed:
        bench.report(f"expected {' or '.join(allowed)}, found {found}", moment, child)
    bench.check_sources(moment)
    return found


def _check_next(bench: Bench, moment: object, found: str) -> None:
    """Run the operation again, which must succeed and remove what the killed one left."""
    if not bench.operation.replaces and found == "new":
        return
    child = bench.run()
    if child.code != 0 or bench.found(False) != "new" or bench.leftovers():
        bench.report(f"expected that the next run succeeds and cleans up, got {bench.leftovers()}", moment, child)


def kill(bench: Bench, count: int) -> Outcome:
    """Kill before each system call, in the middle of each write, and at random times."""
    outcome = Outcome()
    existing = _existing(bench)
    timed = count // 5
    for older in existing:
        for fault in kill_moments(bench.calls(older), (count - timed) // len(existing)):
            bench.reset(older)
            child = bench.run(fault, force=older)
            if child.code != -signal.SIGKILL:
                bench.report("expected to be killed", fault, child)
            found = _check_left(bench, fault, child, older, ("older", "new", "parts"))
            outcome.add(found)
            _check_next(bench, fault, found)
    rng = random.Random(1)
    while outcome.moments < count:
        older = existing[outcome.moments % len(existing)]
        bench.reset(older)
        pid = bench.start(force=older)
        delay = rng.uniform(0, 1.1 * bench.seconds)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        child = ended(pid, bench.log)
        moment = f"killed after {delay:.4f} s"
        found = _check_left(bench, moment, child, older, ("older", "new", "parts"))
        outcome.add(found)
        _check_next(bench, moment, found)
    return outcome


def full_disk(bench: Bench, count: int) -> Outcome:
    """Let the disk be full from a system call on."""
    return _failing(bench, count, Action.FAIL_FROM, errno.ENOSPC, _NEEDS_SPACE)


def failing_disk(bench: Bench, count: int) -> Outcome:
    """Let one system call fail as on a disk with bad sectors."""
    return _failing(bench, count, Action.FAIL, errno.EIO, _NEEDS_SPACE)


def read_only(bench: Bench, count: int) -> Outcome:
    """Refuse every new file, as in a folder or on a file system that is read-only."""
    outcome = Outcome()
    for number in (errno.EACCES, errno.EROFS):
        outcome.left += _failing(bench, count, Action.FAIL_FROM, number, Kind.CREATE).left
    outcome.moments = outcome.left.total()
    return outcome


def _failing(bench: Bench, count: int, action: Action, number: int, kinds: Kind) -> Outcome:
    outcome = Outcome()
    existing = _existing(bench)
    for older in existing:
        calls = bench.calls(older, kinds)
        for at in _moments(calls, max(count // len(existing), 1)):
            fault = Fault(action, at, kinds, number)
            bench.reset(older)
            child = bench.run(fault, force=older)
            # After the rename, only its durability can fail; and the list of parts is the last of them.
            synced = calls[at] == Kind.SYNC and "complete, but its folder" in child.output
            if child.code == 0:
                outcome.add(_check_left(bench, fault, child, older, ("new",)))
            else:
                outcome.add(_check_left(bench, fault, child, older, ("new",) if synced else ("older",)))
                _check_message(bench, fault, child, calls[at])
            if bench.leftovers():
                bench.report(f"left {bench.leftovers()}", fault, child)
    return outcome


def _check_message(bench: Bench, fault: Fault, child: Ended, kind: Kind) -> None:
    lines = [line for line in child.output.splitlines() if line]
    expected = os.strerror(fault.number)
    if fault.number == errno.ENOSPC and kind in Kind.RESERVE | Kind.WRITE:
        expected = _SPACE
    if child.code != _SYSTEM or not any(expected in line for line in lines) or "Traceback" in child.output:
        bench.report(f"expected exit code {_SYSTEM} and a message with {expected!r}", fault, child)


def unremovable(bench: Bench, count: int) -> Outcome:
    """Refuse to remove temporary files: the target is right all the same."""
    outcome = Outcome()
    for older in _existing(bench):
        for at in range(min(len(bench.calls(older, Kind.REMOVE)), count)):
            fault = Fault(Action.FAIL, at, Kind.REMOVE, errno.EPERM)
            bench.reset(older)
            child = bench.run(fault, force=older)
            if child.code != 0:
                bench.report("expected success", fault, child)
            outcome.add(_check_left(bench, fault, child, older, ("new",)))
    return outcome


def short_writes(bench: Bench, count: int) -> Outcome:
    """Let every write, and then every read, do half of what it was asked to."""
    outcome = Outcome()
    for kinds, where in ((Kind.WRITE, "target"), (Kind.READ, "source")):
        fault = Fault(Action.SHORTEN, 0, kinds)
        bench.reset(older=False)
        child = bench.run(fault, force=False, where=where)
        if child.code != 0:
            bench.report("expected success", fault, child)
        outcome.add(_check_left(bench, fault, child, False, ("new",)))
    return outcome


def failing_reads(bench: Bench, count: int) -> Outcome:
    """Let one read of a source fail."""
    outcome = Outcome()
    existing = _existing(bench)
    for older in existing:
        calls = bench.calls(older, Kind.READ, "source")
        for at in _spread(range(len(calls)), max(count // len(existing), 1)):
            fault = Fault(Action.FAIL, at, Kind.READ, errno.EIO)
            bench.reset(older)
            child = bench.run(fault, force=older, where="source")
            outcome.add(_check_left(bench, fault, child, older, ("older",)))
            if child.code != _SYSTEM or os.strerror(errno.EIO) not in child.output or bench.leftovers():
                bench.report("expected exit code 3, the error, and no temporary file", fault, child)
    return outcome


def small_disk(bench: Bench, count: int) -> Outcome | None:
    """Write to a file system of memory that is too small, by many different amounts."""
    outcome = Outcome()
    needed, there = _pages(bench.new), _pages(bench.older)
    older = bench.operation.replaces
    bench.reset(False)
    with _mounted(bench.out) as mounted:
        if not mounted:
            return None
        for i in range(count):
            space = there + needed * i // count
            subprocess.run(["mount", "-o", f"remount,nr_blocks={space}", bench.out], check=True)
            _fill(bench, older)
            child = bench.run(force=older)
            moment = f"a disk of {space} pages"
            if child.code == 0:
                outcome.add(_check_left(bench, moment, child, older, ("new",)))
                continue
            outcome.add(_check_left(bench, moment, child, older, ("older",)))
            if child.code != _SYSTEM or not re.search(rf"{_SPACE}[\d.]+ [kM]?B, [\d.]+ [kM]?B free", child.output):
                bench.report("expected exit code 3 and how much space is needed and free", moment, child)
            if bench.leftovers():
                bench.report(f"left {bench.leftovers()}", moment, child)
    return outcome


def _pages(content: Tree) -> int:
    """Return the pages of memory that files take."""
    return sum(-(-len(data) // mmap.PAGESIZE) for data in content.values()) + 1


class _mounted:  # noqa: N801 (a context manager)
    """Mount a file system of memory on a folder for the block; False where this process may not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(self._folder)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            self._there = False
        else:
            self._there = done.returncode == 0
        return self._there

    def __exit__(self, *exc: object) -> None:
        if self._there:
            subprocess.run(["umount", str(self._folder)], check=True)


def _fill(bench: Bench, older: bool) -> None:
    """Put the older target where the target is, without replacing the folder, on which something is mounted."""
    for path in sorted(bench.out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if bench.operation.several:
        (bench.out / bench.operation.target).mkdir()
    for name, data in (bench.older if older else {}).items():
        (bench.out / name).parent.mkdir(exist_ok=True, parents=True)
        (bench.out / name).write_bytes(data)


def two_writers(bench: Bench, count: int) -> Outcome:
    """Write two models to one target at the same time: the target is one of them."""
    outcome = Outcome()
    if not bench.operation.replaces:
        return outcome
    for i in range(count):
        force = i % 2 == 0
        bench.reset(older=False)
        log = bench.log
        pids = []
        for name in (OLD, NEW):
            bench.log = bench.folder / f"output of {name}"
            pids.append((bench.start(source=name, force=force), bench.log))
        bench.log = log
        children = [ended(pid, output) for pid, output in pids]
        moment = f"two writers, {'--force' if force else 'without --force'}"
        for child in children:
            if child.code != 0 and (force or child.code != _SYSTEM or "already exists" not in child.output):
                bench.report("expected success, or that the target exists", moment, child)
        left = tree(bench.out)
        if left not in (bench.older, bench.new):
            bench.report(f"expected one of two targets, found {sorted(left)}", moment, children[0])
        if [child.code for child in children].count(0) != 1 and not force:
            bench.report("expected that one of two succeeds", moment, children[1])
        outcome.add("new" if left == bench.new else "older")
    return outcome


CAMPAIGNS = (
    Campaign("kill -9", "older target, or new one; the next run succeeds", 200, kill),
    Campaign("full disk (ENOSPC)", "older target, exit code 3, space needed and free", 50, full_disk),
    Campaign("small disk (tmpfs)", "the same", 20, small_disk),
    Campaign("failing disk (EIO)", "older target, exit code 3", 25, failing_disk),
    Campaign("read-only folder", "older target, exit code 3", 2, read_only),
    Campaign("temporary file that cannot be removed", "new target", 20, unremovable),
    Campaign("source that cannot be read (EIO)", "older target, exit code 3", 20, failing_reads),
    Campaign("short reads and writes", "new target", 2, short_writes),
    Campaign("two writers at once", "target of one of them", 20, two_writers),
)
