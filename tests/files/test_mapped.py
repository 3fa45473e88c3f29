"""Memory maps of files that are truncated, or whose disk fails, while something reads from them."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.files import reading
from rwkv_cy.files.mapped import MappedFile
from rwkv_cy.files.reading import FileBytes
from storage.small import python

PAGES = 16
SIZE = PAGES * mmap.PAGESIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes([7]) * SIZE)
    return path


def map_of(path: Path) -> MappedFile:
    with path.open("rb") as file:
        return MappedFile(file.fileno(), SIZE)


def test_the_bytes_of_the_file(path: Path) -> None:
    mapped = map_of(path)
    view = memoryview(mapped)
    assert view.readonly
    assert view.nbytes == SIZE
    assert bytes(view[:3]) == b"\7\7\7"
    assert not mapped.damaged


def test_arrays_keep_the_map(path: Path) -> None:
    array = np.frombuffer(map_of(path), np.uint8)  # type: ignore[call-overload]
    path.unlink()
    assert array.sum() == 7 * SIZE


def test_missing_pages_are_zeros_and_noted(path: Path) -> None:
    mapped, other = map_of(path), map_of(path)
    array = np.frombuffer(mapped, np.uint8)  # type: ignore[call-overload]
    os.truncate(path, 3 * mmap.PAGESIZE)
    assert array.sum() == 7 * 3 * mmap.PAGESIZE
    assert mapped.damaged
    assert not other.damaged
    os.truncate(path, SIZE)
    assert mapped.damaged
    assert not map_of(path).damaged


def test_errors_of_the_system(path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        MappedFile(1_000_000, SIZE)
    with path.open("rb") as file, pytest.raises(OSError, match="Invalid argument"):
        MappedFile(file.fileno(), 0)


def test_more_maps_than_are_guarded(path: Path) -> None:
    maps = [map_of(path) for _ in range(1030)]
    assert not any(mapped.damaged for mapped in maps)
    assert [maps[0].guarded, maps[-1].guarded] == [True, False]
    assert memoryview(maps[-1])[0] == 7


def test_the_file_says_so(path: Path) -> None:
    with FileBytes(path) as file:
        view = file.view(0, np.dtype(np.uint8), (SIZE,))
        assert view is not None
        os.truncate(path, mmap.PAGESIZE)
        view.sum()
        with pytest.raises(FormatError, match=f"expected {SIZE} bytes, got {mmap.PAGESIZE} bytes: the file"):
            file.check()
        os.truncate(path, SIZE)
        with pytest.raises(StorageError, match="cannot read it: a part of it was missing for a time, or its disk fail"):
            file.check()


def test_threads_share_one_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second map would not be the one that check() looks at."""
    made, barrier = [], threading.Barrier(4)

    def slowly(descriptor: int, size: int) -> MappedFile:
        time.sleep(0.05)
        made.append(MappedFile(descriptor, size))
        return made[-1]

    def view(_: int) -> object:
        barrier.wait()
        return file.view(0, np.dtype(np.uint8), (SIZE,))

    monkeypatch.setattr(reading, "MappedFile", slowly)
    with FileBytes(path) as file, ThreadPoolExecutor(4) as pool:
        views = list(pool.map(view, range(4)))
    assert len(views) == 4
    assert len(made) == 1


#: Maps a file without a guard beside a guarded one, and reads beyond the end of it.
UNGUARDED = """
import mmap, os
from rwkv_cy.files.mapped import MappedFile
file = os.open(sys.argv[1], os.O_RDWR)
guarded, unguarded = MappedFile(file, 4 * mmap.PAGESIZE), mmap.mmap(file, 4 * mmap.PAGESIZE)
os.ftruncate(file, mmap.PAGESIZE)
print(memoryview(guarded)[3 * mmap.PAGESIZE], flush=True)
unguarded[3 * mmap.PAGESIZE]
"""


@pytest.mark.parametrize("before", ["", "import faulthandler; faulthandler.enable()\n"])
def test_other_memory_is_left_to_the_handler_before(path: Path, before: str) -> None:
    done = subprocess.run(python(before + UNGUARDED, path), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGBUS
    assert done.stdout == "0\n"
    assert ("Bus error" in done.stderr) == bool(before)


def test_a_signal_that_a_process_sends_is_not_a_fault(path: Path) -> None:
    program = UNGUARDED.rpartition("unguarded[")[0] + "os.kill(os.getpid(), 7)\n"
    done = subprocess.run(python(program, path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "0\n")
