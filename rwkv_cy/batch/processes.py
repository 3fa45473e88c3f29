"""Local processes: one a NUMA node, each with its processors, memory and threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Generator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rwkv_cy.batch import child as protocol
from rwkv_cy.batch.numa import Share, nodes, shares
from rwkv_cy.batch.records import Done
from rwkv_cy.batch.workers import Count, ModelPath, Work
from rwkv_cy.errors import StorageError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.runtime import available_memory, child_environment

__all__ = ["LocalProcesses"]

#: A block that was in progress in so many processes when they died is what they died of.
_MOST_DEATHS = 4
_PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if {cpus}:
    os.sched_setaffinity(0, {cpus})
sys.path[:] = {path}
from rwkv_cy.batch.child import serve
serve({messages}, {life})
"""


class LocalProcesses:
    """Processes on this machine that share a batch: a block goes to the next one that has a place for it.

    Parameters
    ----------
    path : path-like
        The model.
    processes : int, optional
        By default one a NUMA node.
    threads : int, optional
        Of each process; by default its physical cores.
    mmap : bool, optional
        Whether processes map the file, which is in memory once then. By default they do, unless there are several NUMA
        nodes, and memory for a copy of each process: in that of its node.
    **options
        Others of :func:`rwkv_cy.load`.

    Raises
    ------
    ConfigError
        If there are less than 1 or more than 1024 processes.

    Notes
    -----
    Each process is pinned to its processors before it allocates memory. One that dies, as when memory runs out, is
    replaced, and its blocks are done again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        processes: int | None = None,
        threads: int | None = None,
        mmap: bool | None = None,
        **options: Any,
    ) -> None:
        self._shares = shares(processes, threads)
        if mmap is None:
            mmap = len(nodes()) == 1 or not _fits(Path(path), len(self._shares))
        self._model = ModelPath(path, {"mmap": mmap, **options})

    @property
    def count(self) -> int:
        """Number of processes."""
        return len(self._shares)

    def run(self, work: Work, count: Count) -> Generator[Done, None, None]:
        """Work on blocks, and yield each when it is complete, in any order.

        Raises
        ------
        StorageError
            If processes die of a block, or as they start.
        """
        return _Crew(self._model, self._shares, work, count).run()


def _fits(path: Path, copies: int) -> bool:
    """Tell whether there is memory for copies of a file, with as much left for what processes need beside."""
    available = available_memory()
    with os_errors(path, "open"):
        return available is None or 2 * copies * path.stat().st_size <= available


class _Process:
    """A process, the connection to it, and the blocks that it works on."""

    def __init__(self, model: ModelPath, share: Share, work: Work) -> None:
        self.share = share
        self.blocks: set[int] = set()
        self.started = self.waits = False
        try:
            self._start()
        except OSError as error:
            raise StorageError(
                f"{model.path}: expected a process that loads the model, got {error.strerror or error} as it started; "
                "use fewer processes"
            ) from error
        self.send((work, model, share.threads))

    def _start(self) -> None:
        own, other = socket.socketpair()
        with own, other:
            life, self._life = os.pipe()
            cpus = set(self.share.cpus) or None
            program = _PROGRAM.format(cpus=cpus, path=sys.path, messages=other.fileno(), life=life)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=child_environment(),
                    pass_fds=(other.fileno(), life),
                )
            except OSError:
                os.close(self._life)
                raise
            finally:
                os.close(life)
            self.connection = Connection(own.detach())

    def send(self, message: Any) -> None:
        """Send a message; that it was not received is seen when the next one is expected from there."""
        try:
            self.connection.send(message)
        except OSError:
            return

    def end(self) -> str:
        """End it, and return how it ended."""
        os.close(self._life)
        self.connection.close()
        self._process.kill()
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class _Crew:
    """The processes of a run."""

    def __init__(self, model: ModelPath, parts: list[Share], work: Work, count: Count) -> None:
        self._model = model
        self._work = work
        self._count = count
        self._numbers = deque(work.numbers)
        self._left = set(work.numbers)
        self._deaths: Counter[int] = Counter()
        self._failed_starts = 0
        self._parts = parts[: len(work.numbers)]
        self._processes: dict[Connection, _Process] = {}

    def run(self) -> Generator[Done, None, None]:
        try:
            for share in self._parts:
                self._start(share)
            while self._left:
                for connection in wait(list(self._processes)):
                    process = self._processes[connection]  # type: ignore[index]
                    try:
                        kind, content = process.connection.recv()
                    except (EOFError, OSError):
                        self._replace(process)
                        continue
                    if kind == protocol.DONE:
                        number = content.block.number
                        process.blocks.discard(number)
                        self._left.discard(number)
                        yield content
                    else:
                        self._take(process, kind, content)
                self._give()
        finally:
            for process in self._processes.values():
                process.end()

    def _start(self, share: Share) -> None:
        process = _Process(self._model, share, self._work)
        self._processes[process.connection] = process

    def _take(self, process: _Process, kind: int, content: Any) -> None:
        if kind == protocol.ERROR:
            raise content
        if kind == protocol.COUNT:
            self._count(*content)
        elif kind == protocol.WAIT:
            process.started = process.waits = True
        else:
            self._answer(process)

    def _give(self) -> None:
        """Give blocks to the processes that wait for them."""
        for process in self._processes.values():
            if process.waits and self._numbers:
                process.waits = False
                self._answer(process)

    def _answer(self, process: _Process) -> None:
        number = self._numbers.popleft() if self._numbers else None
        if number is not None:
            process.blocks.add(number)
        process.send(number)

    def _replace(self, process: _Process) -> None:
        """Start a process in place of one that died, whose blocks are done again."""
        del self._processes[process.connection]
        how = process.end()
        self._deaths.update(process.blocks)
        self._failed_starts = 0 if process.started else self._failed_starts + 1
        worst = max(process.blocks, key=self._deaths.__getitem__, default=None)
        if worst is not None and self._deaths[worst] >= _MOST_DEATHS:
            raise StorageError(
                f"{self._work.rows.path}: expected an answer to each record of block {worst}, got {_MOST_DEATHS} "
                f"processes that died of it, the last by {how}; look for a lack of memory, and for the block's records"
            )
        if self._failed_starts >= _MOST_DEATHS:
            raise StorageError(
                f"{self._model.path}: expected a process that loads the model, got {_MOST_DEATHS} that died first, the "
                f"last by {how}; look for a lack of memory, or use fewer processes"
            )
        self._numbers.extendleft(sorted(process.blocks, reverse=True))
        self._start(process.share)
