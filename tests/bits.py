"""Damage in every place of a file: each bit flipped, each length cut. ``make test`` tries one of seven."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

#: Runs a test with the distance between two places: all of them in ``make test-slow``. Of bits, 7 reaches every byte,
#: and each bit of a byte as often as any other.
sampled = pytest.mark.parametrize(
    "step", [pytest.param(7, id="sample"), pytest.param(1, id="every", marks=pytest.mark.slow)]
)


def flips(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield every `step`-th bit of `size` bytes, as the position of its byte and its mask."""
    for bit in range(0, 8 * size, step):
        yield bit // 8, 1 << bit % 8


def with_flip(data: bytes, position: int, mask: int) -> bytes:
    """Return the bytes with one bit flipped."""
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
