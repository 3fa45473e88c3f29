"""Deflated bytes: read from any position, by several threads, in bounded memory, and every kind of damage."""

from __future__ import annotations

import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats.inflated import InflatedBytes

BEFORE = b"before"
DATA = np.random.default_rng(1).integers(0, 7, 1_000_000, np.uint8).tobytes()


def deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


def opened(path: Path, packed: bytes, size: int) -> InflatedBytes:
    path.write_bytes(BEFORE + packed + b"behind")
    return InflatedBytes(FileBytes(path), "a/0", len(BEFORE), len(packed), size)


@pytest.fixture
def inflated(tmp_path: Path) -> InflatedBytes:
    return opened(tmp_path / "x", deflate(DATA), len(DATA))


@pytest.mark.parametrize("offsets", [(0, 400_000, 800_000), (800_000, 0, 400_000, 0), (999_999, 3, 2, 1, 0, 7)])
def test_from_any_position(inflated: InflatedBytes, offsets: tuple[int, ...]) -> None:
    for offset in offsets:
        for size in (0, 1, 150_000):
            size = min(size, len(DATA) - offset)
            assert inflated.read_at(offset, size) == DATA[offset : offset + size]


def test_in_order_everything_is_inflated_once(inflated: InflatedBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    begin = inflated._new_cursor
    monkeypatch.setattr(inflated, "_new_cursor", lambda: begun.append(1) or begin())
    assert b"".join(inflated.read_at(offset, 1000) for offset in range(0, len(DATA), 1000)) == DATA
    assert len(begun) == 1


@pytest.mark.parametrize("readers", [2, 3, 4])
def test_each_of_several_readers_goes_on_where_it_was(
    readers: int, inflated: InflatedBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = inflated._new_cursor
    monkeypatch.setattr(inflated, "_new_cursor", lambda: begun.append(1) or begin())
    starts = [reader * 200_000 for reader in reversed(range(readers))]
    for step in range(0, 100_000, 10_000):
        for start in starts:
            assert inflated.read_at(start + step, 10_000) == DATA[start + step :][:10_000]
    assert len(begun) == readers


def test_checksums(inflated: InflatedBytes) -> None:
    inflated.read_at(5, 5)
    assert inflated.crc32() == zlib.crc32(DATA)
    assert inflated.read_at(10, 5) == DATA[10:15]


def test_threads(inflated: InflatedBytes) -> None:
    barrier = threading.Barrier(6)

    def read(part: int) -> bytes:
        barrier.wait()
        return b"".join(inflated.read_at(offset, 10_000) for offset in range(part * 10_000, len(DATA), 60_000))

    with ThreadPoolExecutor(6) as pool:
        parts = list(pool.map(read, range(6)))
    pieces = [parts[i // 10_000 % 6][i // 60_000 * 10_000 :][:10_000] for i in range(0, len(DATA), 10_000)]
    assert b"".join(pieces) == DATA


def test_memory_is_bounded(tmp_path: Path) -> None:
    inflated = opened(tmp_path / "x", deflate(bytes(100 << 20)), 100 << 20)
    tracemalloc.start()
    try:
        assert inflated.read_at((100 << 20) - 3, 3) == bytes(3)
        inflated.crc32()
        for offset in range(20):
            inflated.read_at((20 - offset) << 10, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path / "x", deflate(b""), 0).read_at(0, 0) == b""


@pytest.mark.parametrize(
    ("packed", "size", "message"),
    [
        (deflate(DATA)[:-1000], len(DATA), "but it ends too early"),
        (deflate(DATA[:-1]), len(DATA), "but it ends too early"),
        (deflate(DATA), len(DATA) - 1, "but it goes on after its end"),
        (deflate(DATA) + b"x", len(DATA), "but it goes on after its end"),
        (b"\xff" * 100, 100, "but it has other bytes"),
        (b"", 100, "but it ends too early"),
    ],
)
def test_damage(tmp_path: Path, packed: bytes, size: int, message: str) -> None:
    inflated = opened(tmp_path / "x", packed, size)
    for read in (lambda: inflated.read_at(0, size), inflated.crc32):
        with pytest.raises(
            FormatError, match=rf"x: expected deflated bytes in zip entry 'a/0', {message}; the file is d"
        ):
            read()


def test_every_bit_flipped(tmp_path: Path) -> None:
    """Any answer will do but another error; the checksum of the archive tells a wrong one."""
    packed = deflate(DATA[:300])
    for position in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[position // 8] ^= 1 << position % 8
        inflated = opened(tmp_path / "x", bytes(flipped), 300)
        try:
            assert len(inflated.read_at(0, 300)) == 300
        except FormatError:
            continue
