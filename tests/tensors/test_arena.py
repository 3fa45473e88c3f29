"""Arena: arrays of anonymous memory, in large pages if available."""

from __future__ import annotations

import mmap
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import KernelError, NotEnoughMemoryError
from rwkv_cy.tensors import arena
from rwkv_cy.tensors.arena import Arena

_LARGE = 2 << 20


def test_arrays_are_aligned_zero_and_apart() -> None:
    shapes = [((3, 5), np.dtype("<f4")), ((7,), np.dtype("<u2")), ((2, 2, 2), np.dtype(np.uint8))]
    whole = Arena(sum(Arena.padded(int(np.prod(shape)) * dtype.itemsize) for shape, dtype in shapes))
    arrays = [whole.take(shape, dtype) for shape, dtype in shapes]
    assert arrays[0].ctypes.data % _LARGE == 0
    for number, (array, (shape, dtype)) in enumerate(zip(arrays, shapes, strict=True), start=1):
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
        assert not array.any()
        array[...] = number
    assert [int(array.reshape(-1)[0]) for array in arrays] == [1, 2, 3]
    assert all((array == number).all() for number, array in enumerate(arrays, start=1))


def test_arrays_outlive_the_arena() -> None:
    array = Arena(64).take((64,), np.dtype(np.uint8))
    array[...] = 5
    assert int(array.sum()) == 320


def test_no_more_than_it_was_made_for() -> None:
    whole = Arena(64)
    with pytest.raises(KernelError, match="Arena: expected arrays within its 64 bytes, got 65"):
        whole.take((65,), np.dtype(np.uint8))


def test_more_than_the_system_has() -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"^not enough memory for the parameters: need [^\[\]]+; free"):
        Arena(1 << 60)


@pytest.mark.parametrize("missing", ["the name", "the call"])
def test_without_large_pages(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *advice: int) -> None:
            raise OSError(22, "Invalid argument")

    if missing == "the name":
        monkeypatch.delattr(arena.mmap, "MADV_HUGEPAGE", raising=False)
    else:
        monkeypatch.setattr(arena.mmap, "mmap", Refusing)
    array = Arena(_LARGE).take((_LARGE,), np.dtype(np.uint8))
    array[...] = 1
    assert int(array.sum()) == _LARGE


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and transparent huge pages are Linux's")
def test_large_pages_are_requested() -> None:
    array = Arena(3 * _LARGE + 5000).take((3 * _LARGE,), np.dtype(np.uint8))
    areas = Path("/proc/self/smaps").read_text().split("VmFlags:")
    begins = f"{array.ctypes.data:x}-{array.ctypes.data + 3 * _LARGE:x}"
    area, flags = next((a, f) for a, f in pairwise(areas) if begins in a)
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert " hg" in flags.splitlines()[0], area
