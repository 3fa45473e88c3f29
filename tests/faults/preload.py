"""The library of faults: compiled on demand, loaded with LD_PRELOAD, and armed in a child process."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import subprocess
import sys
from enum import IntEnum, IntFlag
from pathlib import Path

__all__ = ["CHANGES", "LIBRARY", "Action", "Fault", "Kind", "Record", "compile_library", "run_with_faults"]

LIBRARY = "faults.so"
_SOURCE = Path(__file__).with_name("preload.c")
_CAPACITY = 1 << 16
_COUNT_BYTES = ctypes.sizeof(ctypes.c_long)


class Kind(IntFlag):
    """Kinds of system calls, as in preload.c."""

    CREATE = 1
    RESERVE = 2
    WRITE = 4
    SYNC = 8
    RENAME = 16
    REMOVE = 32
    READ = 64


#: Everything that changes files.
CHANGES = Kind.CREATE | Kind.RESERVE | Kind.WRITE | Kind.SYNC | Kind.RENAME | Kind.REMOVE


class Action(IntEnum):
    """What happens at the chosen call, as in preload.c."""

    NOTHING = 0
    KILL_BEFORE = 1
    KILL_HALF = 2
    KILL_AFTER = 3
    FAIL = 4
    FAIL_FROM = 5
    SHORTEN = 6


class Record:
    """Memory shared with the children: how many calls were counted, and their kinds."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNT_BYTES + _CAPACITY)
        self._buffer = (ctypes.c_char * len(self._memory)).from_buffer(self._memory)

    def clear(self) -> int:
        """Forget all calls, and return the address."""
        self._memory[:_COUNT_BYTES] = bytes(_COUNT_BYTES)
        return ctypes.addressof(self._buffer)

    def kinds(self) -> list[Kind]:
        """Return the kind of each call that was counted."""
        count = int.from_bytes(self._memory[:_COUNT_BYTES], sys.byteorder)
        if count > _CAPACITY:
            raise RuntimeError(f"expected at most {_CAPACITY} system calls, got {count}; take a smaller model")
        return [Kind(value) for value in self._memory[_COUNT_BYTES : _COUNT_BYTES + count]]


class Fault:
    """One thing that goes wrong.

    Parameters
    ----------
    action : Action
    at : int
        Number of the call, from 0, among those of `kinds`.
    kinds : Kind
    number : int
        The error that a failing call returns.
    """

    def __init__(self, action: Action, at: int = 0, kinds: Kind = CHANGES, number: int = errno.EIO) -> None:
        self.action, self.at, self.kinds, self.number = action, at, kinds, number

    @classmethod
    def counting(cls) -> Fault:
        """Return one that strikes nowhere: calls are only counted."""
        return cls(Action.NOTHING)

    def __repr__(self) -> str:
        return f"{self.action.name} at call {self.at} of {self.kinds!r}, {errno.errorcode[self.number]}"

    def arm(self, folder: Path, record: int) -> None:
        """Count and strike from now on in this process, in files below `folder`."""
        arm = ctypes.CDLL(None).faults_arm
        arm.argtypes = (ctypes.c_char_p, ctypes.c_uint, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
        arm(os.fsencode(folder), self.kinds, self.at, self.action, self.number, record)


def compile_library(folder: Path) -> Path:
    """Compile the library into `folder`, and return its path.

    Raises
    ------
    FileNotFoundError
        If there is no C compiler.
    """
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"{compiler[0]}: the faults need a C compiler; name it in CC")
    library = folder / LIBRARY
    subprocess.run([*compiler, "-O1", "-shared", "-fPIC", str(_SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


def run_with_faults(library: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process that has the library loaded."""
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
