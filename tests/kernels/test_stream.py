"""Stream: reads every byte once, for every instruction set and number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.stream import Stream


def expected(arrays: list[np.ndarray]) -> int:
    total = 0
    for array in arrays:
        raw = array.tobytes()
        words = np.frombuffer(raw + bytes(-len(raw) % 8), np.uint64)
        total += int(words.sum(dtype=np.uint64))
    return total % 2**64


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_byte_is_read(isa: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    sizes = (0, 1, 7, 8, 9, 63, 64, 511, 512, 513, 4099, 200_003, 5 << 20)
    arrays = [rng.integers(0, 256, size + 1, np.uint8)[1:] for size in sizes]  # misaligned, too
    for some in (arrays, arrays[:5], arrays[6:9], []):
        stream = Stream(some)
        assert stream.nbytes == sum(array.nbytes for array in some)
        assert stream.read(threads) == expected(some)


def test_every_byte_counts() -> None:
    array = np.zeros(1000, np.uint8)
    stream = Stream([array])
    assert stream.read() == 0
    for at in range(1000):
        array[at] = 1
        assert stream.read() != 0
        array[at] = 0


def test_a_matrix_of_any_type() -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    assert Stream([array]).read() == expected([array])


def test_what_it_refuses() -> None:
    with pytest.raises(KernelError, match=r"Stream: expected contiguous arrays, got one with strides \(16,\)"):
        Stream([np.zeros(8)[::2]])
    with pytest.raises(KernelError, match=r"Stream\.read: expected at least one thread, got 0"):
        Stream([np.zeros(8)]).read(0)
