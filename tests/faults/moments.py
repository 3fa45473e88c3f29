"""One moment: an operation in a child process in which something goes wrong, and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faults.operations import NEW, OLD, Operation
from faults.preload import CHANGES, Action, Fault, Kind, Record

__all__ = ["Bench", "Ended", "Tree", "ended", "limit_time", "run_child", "temporary_files", "tree"]

#: Bytes of every file of a folder, by its path in it.
Tree = Mapping[str, bytes]

#: CPU seconds after which a child is in a loop, and seconds after which it waits for what does not come: more than a
#: process may be stopped for.
_CPU_SECONDS, _SECONDS = 60, 1200
_CRASHED = 99
_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.(tmp|old)")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    code : int
        Its exit code, or minus the number of the signal.
    output : str
        What it printed.
    """

    code: int
    output: str


def limit_time(cpu_seconds: float, seconds: int) -> None:
    """End this process by a signal after so much CPU time, or time; 0 for no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.alarm(seconds)


def run_child(work: Callable[[], int], log: Path, *, prepare: Callable[[], None] = lambda: None) -> int:
    """Fork a child that calls `prepare` and returns the result of `work` as its exit code; return its process id.

    An exception of another kind than SystemExit is a fault of the package, and the exit code 99.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = _CRASHED
    try:
        limit_time(_CPU_SECONDS, _SECONDS)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        prepare()
        code = int(work())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else _CRASHED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, log: Path) -> Ended:
    """Wait for a child."""
    _, status = os.waitpid(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace") if log.exists() else "")


@dataclass
class Bench:
    """A folder in which an operation is run again and again.

    Attributes
    ----------
    operation : Operation
    folder : Path
        Holds ``source``, which is only read, ``target``, and the output of the children.
    older, new : mapping
        What `target` holds before, and after the operation.
    problems : list of str
        What went wrong that must not.
    """

    operation: Operation
    folder: Path
    record: Record = field(default_factory=Record)
    older: Tree = field(default_factory=dict)
    new: Tree = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = self.folder / "target"
        self.log = self.folder / "output"
        self.sources = tree(self.folder / "source")
        self.seconds = 0.0
        self._restore({})
        if self.operation.replaces:
            self._must(self.run(source=OLD, force=False), "the older target")
            self.older = tree(self.out)
        began = time.monotonic()
        self._must(self.run(), "the new target")
        self.seconds = time.monotonic() - began
        self.new = tree(self.out)
        self._restore({})
        self._must(self.run(force=False), "the new target without an older one")
        if self.problems == [] and tree(self.out) != self.new:
            self.problems.append(f"{self.operation.name}: two runs wrote different files")

    def calls(self, older: bool, kinds: Kind = CHANGES, where: str = "target") -> list[Kind]:
        """Return the system calls of the operation, with an older target or without."""
        self.reset(older)
        self._must(self.run(Fault(Action.NOTHING, kinds=kinds), force=older, where=where), "counting calls")
        return self.record.kinds()

    def reset(self, older: bool) -> None:
        """Put the older target, or nothing, where the target is."""
        self._restore(self.older if older else {})

    def start(
        self, fault: Fault | None = None, *, source: str = NEW, force: bool | None = None, where: str = "target"
    ) -> int:
        """Start the operation, with a fault in files below a folder; return the child's process id."""
        force = self.operation.replaces if force is None else force
        work = lambda: self.operation.run(  # noqa: E731
            self.folder / "source" / source, self.out / self.operation.target, force and self.operation.replaces
        )
        if fault is None:
            return run_child(work, self.log)
        address = self.record.clear()
        return run_child(work, self.log, prepare=lambda: fault.arm(self.folder / where, address))

    def run(
        self, fault: Fault | None = None, *, source: str = NEW, force: bool | None = None, where: str = "target"
    ) -> Ended:
        """Run the operation to its end."""
        return ended(self.start(fault, source=source, force=force, where=where), self.log)

    def found(self, older: bool) -> str:
        """Return what is at the target: ``"older"``, ``"new"``, ``"parts"`` of several files, or what else.

        Temporary files are left out.
        """
        left = {path: data for path, data in tree(self.out).items() if not _TEMPORARY.fullmatch(path.split("/")[0])}
        if self.operation.several:
            left = {path: data for path, data in left.items() if not _TEMPORARY.fullmatch(path.split("/")[-1])}
        if left == (self.older if older else self._nothing()):
            return "older"
        if left == self.new:
            return "new"
        lists = [path for path in left if path.endswith(".parts.json")]
        if self.operation.several and not lists and left.items() <= self.new.items():
            return "parts"
        return f"other files: {sorted(left)}"

    def leftovers(self) -> list[str]:
        """Return the temporary files and folders."""
        return temporary_files(self.out)

    def report(self, what: str, moment: object, child: Ended) -> None:
        """Note a problem."""
        self.problems.append(f"{self.operation.name}: {moment}: {what} (exit {child.code}): {child.output[-2000:]}")

    def check_sources(self, moment: object) -> None:
        """Note it if a source has changed."""
        if tree(self.folder / "source") != self.sources:
            self.problems.append(f"{self.operation.name}: {moment}: the source has changed")

    def _nothing(self) -> Tree:
        return {}

    def _must(self, child: Ended, what: str) -> None:
        if child.code != 0:
            self.report(f"expected {what}", "no fault", child)

    def _restore(self, content: Tree) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        if self.operation.several:
            (self.out / self.operation.target).mkdir()
        for path, data in content.items():
            (self.out / path).parent.mkdir(exist_ok=True, parents=True)
            (self.out / path).write_bytes(data)


def temporary_files(folder: Path) -> list[str]:
    """Return the names of temporary files and folders below a folder."""
    return [path.name for path in folder.rglob("*") if _TEMPORARY.fullmatch(path.name)]


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
