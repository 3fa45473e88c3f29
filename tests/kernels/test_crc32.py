from __future__ import annotations

import zlib

import numpy as np
import pytest

from rwkv_cy.kernels import crc32 as module
from rwkv_cy.kernels.crc32 import crc32


@pytest.fixture(params=["products", "zlib"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        monkeypatch.setattr(module, "uses_products", False)
    return str(request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [0, 1, 63, 64, 1023, 1024, 1025, 1087, 1088, 1089, 4096, 65_537, 1 << 20])
@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF, 0xDEADBEEF])
def test_it_is_that_of_zlib(size: int, value: int) -> None:
    data = np.random.default_rng(size).bytes(size + 3)
    for start in range(3):  # aligned, and not
        part = memoryview(data)[start : start + size]
        assert crc32(part, value) == zlib.crc32(part, value)


@pytest.mark.usefixtures("way")
def test_every_bit_counts() -> None:
    data = bytearray(1024 + 17)
    sums = {crc32(data)}
    for position in range(len(data) * 8):
        data[position // 8] ^= 1 << position % 8
        sums.add(crc32(data))
        data[position // 8] ^= 1 << position % 8
    assert len(sums) == len(data) * 8 + 1


@pytest.mark.usefixtures("way")
def test_any_contiguous_bytes() -> None:
    array = np.arange(1000, dtype="<f4").reshape(10, 100)
    assert crc32(array) == crc32(array.data) == crc32(array.tobytes()) == zlib.crc32(array.tobytes())


@pytest.mark.usefixtures("way")
def test_scattered_bytes_are_refused() -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        crc32(np.zeros(8192, np.uint8)[::2])
