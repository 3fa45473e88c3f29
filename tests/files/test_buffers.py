from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.files.buffers import read_buffer


@pytest.mark.parametrize("count", [64 << 10, 100_001, 1 << 20])
def test_large_buffers_begin_at_a_page(count: int) -> None:
    buffers = [read_buffer(count, dtype) for dtype in ("<u2", "<f4", [("scale", "<f2"), ("levels", "u1", 16)])]
    for buffer in buffers:
        assert buffer.shape == (count,)
        assert buffer.ctypes.data % 4096 == 0
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable
    assert not any(np.shares_memory(buffers[0], other) for other in buffers[1:])


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_small_buffers_have_their_size(count: int) -> None:
    buffer = read_buffer(count, "<f4")
    assert (buffer.shape, buffer.dtype) == ((count,), np.dtype("<f4"))
