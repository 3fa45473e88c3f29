"""ggml's blocks: the NumPy decoder against the formulas, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from formats.foreign import decode_block, encode
from rwkv_cy.formats.ggml_blocks import BLOCK_SIZE, BLOCK_TYPES

SIZES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}


def test_sizes() -> None:
    assert {name: block.layout.itemsize for name, block in BLOCK_TYPES.items()} == SIZES


@pytest.mark.parametrize("kind", SIZES)
def test_random_blocks(kind: str) -> None:
    rng = np.random.default_rng(7)
    size = SIZES[kind]
    raw = rng.integers(0, 256, (50, size), np.uint8)
    # Exponents below 31 keep the scales finite.
    raw[:, [1, 3] if kind in ("q4_1", "q5_1") else [1]] &= 0xBB
    decoded = BLOCK_TYPES[kind].decode(raw.reshape(-1).view(BLOCK_TYPES[kind].layout))
    assert decoded.dtype == np.float32
    assert decoded.shape == (50, BLOCK_SIZE)
    expected = np.array([decode_block(kind, block.tobytes()) for block in raw])
    np.testing.assert_allclose(decoded, expected, rtol=2e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "levels"), [("q4_0", 14), ("q4_1", 15), ("q5_0", 30), ("q5_1", 31), ("q8_0", 254)])
def test_what_was_encoded_comes_back(kind: str, levels: int) -> None:
    numbers = np.random.default_rng(8).uniform(-3, 3, 20 * BLOCK_SIZE)
    blocks = np.frombuffer(encode(kind, numbers), BLOCK_TYPES[kind].layout)
    decoded = BLOCK_TYPES[kind].decode(blocks).reshape(-1)
    # Half a step, and the rounding of the scale to float16.
    assert np.abs(decoded - numbers).max() <= 6 / levels * 0.51 + 6 / 1024
