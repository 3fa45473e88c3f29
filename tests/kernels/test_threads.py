"""Sharing work among threads: every piece runs once, from any caller, and after a fork."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.kernels import dispatch
from rwkv_cy.kernels.matrix import Matrix, Workspace

NEEDS_POOL = pytest.mark.skipif(dispatch.thread_backend() != "pool", reason="this build has no pool of threads")
NEEDS_TASKS = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the system does not show what its threads do"
)
COMPILER = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@pytest.fixture(scope="module")
def product() -> tuple[Matrix, np.ndarray, bytes]:
    rng = np.random.default_rng(0)
    # Wide enough for several pieces of rows, and for several of panels.
    matrix = Matrix(rng.standard_normal((1500, 300)).astype(np.float32), "f32")
    x = rng.standard_normal((1, 300)).astype(np.float32)
    return matrix, x, matrix.matmul(x).tobytes()


def test_backend_is_known() -> None:
    assert dispatch.thread_backend() in ("pool", "openmp", "none")


def test_thousands_of_short_jobs(product: tuple[Matrix, np.ndarray, bytes]) -> None:
    matrix, x, expected = product
    workspace = Workspace()
    for i in range(3000):
        assert matrix.matmul(x, 1 + i % 5, workspace).tobytes() == expected


@pytest.mark.skipif(COMPILER is None, reason="no C compiler: the pool is tested here apart from Python")
def test_jobs_close_behind_one_another(tmp_path: Path) -> None:
    """A thread that is late for one job meets the next: layers leave a tenth of a microsecond between two."""
    root = Path(__file__).parents[2]
    kernels, program = root / "rwkv_cy" / "kernels" / "csrc", tmp_path / "stress_threads"
    sources = [root / "tests" / "c" / "stress_threads.c", kernels / "threads" / "threads_pool.c"]
    flags = ["-O2", "-std=gnu11", "-DRK_THREADS=1", f"-I{kernels}", "-pthread"]
    subprocess.run([*shlex.split(str(COMPILER)), *flags, *map(str, sources), "-o", str(program)], check=True)
    # Who waits for a piece that was lost would wait forever; the program ends itself then.
    done = subprocess.run([str(program), "2000000"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "every item once\n")


def test_callers_side_by_side(product: tuple[Matrix, np.ndarray, bytes]) -> None:
    matrix, x, expected = product
    wrong: list[int] = []

    def work(worker: int) -> None:
        workspace = Workspace()
        for _ in range(500):
            if matrix.matmul(x, 3, workspace).tobytes() != expected:
                wrong.append(worker)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_threads_than_pieces_and_cores(product: tuple[Matrix, np.ndarray, bytes]) -> None:
    matrix, x, expected = product
    assert matrix.matmul(x, 200).tobytes() == expected


def test_woken_with_work_and_without(product: tuple[Matrix, np.ndarray, bytes]) -> None:
    matrix, x, expected = product
    matrix.matmul(x, 3)
    for i in range(60):
        # Long enough, now and then, for threads to fall asleep.
        time.sleep(0.001 * (i % 3))
        dispatch.wake(i % 4)
        if i % 2:
            assert matrix.matmul(x, 3).tobytes() == expected


@NEEDS_POOL
@NEEDS_TASKS
def test_woken_without_work_they_sleep_again() -> None:
    program = """
import os
import time
import numpy as np
from rwkv_cy.kernels import dispatch
from rwkv_cy.kernels.matrix import Matrix
matrix, x = Matrix(np.ones((1500, 300), np.float32), "f32"), np.ones((1, 300), np.float32)
before = set(os.listdir("/proc/self/task"))
matrix.matmul(x, 3)
workers = set(os.listdir("/proc/self/task")) - before

def awake():
    return any(open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[0] != "S" for task in workers)

def spent():
    # Times that a thread went to sleep of itself.
    for task in workers:
        lines = open(f"/proc/self/task/{task}/status").read().splitlines()
        yield next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

def settle():
    for _ in range(500):
        if not awake():
            return
        time.sleep(0.01)
    raise SystemExit("a thread does not sleep")

settle()
slept = sum(spent())
dispatch.wake(3)
for _ in range(500):
    if sum(spent()) > slept:
        break
    time.sleep(0.01)
settle()
print(len(workers), sum(spent()) > slept)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2 True\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forks_while_another_thread_computes(product: tuple[Matrix, np.ndarray, bytes]) -> None:
    matrix, x, expected = product
    stop = threading.Event()

    def work() -> None:
        workspace = Workspace()
        while not stop.is_set():
            matrix.matmul(x, 2, workspace)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                same = all(matrix.matmul(x, 2).tobytes() == expected for _ in range(20))
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


@NEEDS_POOL
@NEEDS_TASKS
def test_signals_are_for_the_program_and_faults_for_the_thread() -> None:
    program = """
import os
import time
from signal import SIGSEGV
import numpy as np
from rwkv_cy.kernels.matrix import Matrix
matrix, x = Matrix(np.ones((1500, 300), np.float32), "f32"), np.ones((1, 300), np.float32)
before = set(os.listdir("/proc/self/task"))
matrix.matmul(x, 3)

def masks():
    for task in set(os.listdir("/proc/self/task")) - before:
        yield next(line.split()[1] for line in open(f"/proc/self/task/{task}/status") if line.startswith("SigBlk:"))

# Until a new thread runs, the C library blocks every signal for it.
for _ in range(500):
    found = list(masks())
    if not any(int(mask, 16) & 1 << SIGSEGV - 1 for mask in found):
        break
    time.sleep(0.01)
print(*found)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    masks = [int(line, 16) for line in done.stdout.split()]
    assert len(masks) == 2, done.stderr
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
    for mask in masks:
        blocked = {number for number in signal.valid_signals() if mask >> (number - 1) & 1}
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} <= blocked
        assert not faults & blocked


@pytest.mark.skipif(dispatch.thread_backend() == "openmp", reason="an OpenMP runtime ends the process")
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the limit of address space is Linux's")
def test_no_thread_to_be_had() -> None:
    program = """
import os
import resource
import numpy as np
from rwkv_cy.kernels.matrix import Matrix
matrix, x = Matrix(np.ones((1500, 300), np.float32), "f32"), np.ones((1, 300), np.float32)
expected = matrix.matmul(x)
before = len(os.listdir("/proc/self/task"))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (1 << 20)  # less than any thread's stack
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert all((matrix.matmul(x, 8) == expected).all() for _ in range(5))
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "0", done.stderr
