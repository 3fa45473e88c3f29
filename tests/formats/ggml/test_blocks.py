"""ggml's blocks: the NumPy codecs against the formulas, number by number, and against ggml's own results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from formats.foreign import encode
from formats.ggml.scalar import decode_by_formula
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS, encode_blocks

SIZES = {
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "iq4_nl": (32, 18),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq4_xs": (256, 136),
}

#: For each type, blocks and what gguf 0.19 (``gguf.quants``) makes of them, in hexadecimal; and numbers and the blocks
#: that it makes of those. The oracle test compares with the package itself.
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def random_blocks(kind: str, count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return blocks of random bytes, shape (count, bytes of a block), with finite scales."""
    layout = BLOCK_TYPES[kind].layout
    blocks = np.random.default_rng(seed).integers(0, 256, (count, layout.itemsize), np.uint8)
    for field in {"d", "m", "dmin"} & set(layout.names or ()):
        # Exponents below 31.
        blocks[:, layout.fields[field][1] + 1] &= 0xBB  # type: ignore[index]
    return blocks


def decoded(kind: str, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return BLOCK_TYPES[kind].decode(np.ascontiguousarray(blocks).reshape(-1).view(BLOCK_TYPES[kind].layout))


def test_sizes() -> None:
    assert {name: (block.size, block.nbytes) for name, block in BLOCK_TYPES.items()} == SIZES
    assert all(block.layout.itemsize == block.nbytes for block in BLOCK_TYPES.values())


@pytest.mark.parametrize("kind", SIZES)
def test_random_blocks(kind: str) -> None:
    blocks = random_blocks(kind, 30, 7)
    numbers = decoded(kind, blocks)
    assert numbers.dtype == np.float32
    assert numbers.shape == (30, SIZES[kind][0])
    expected = np.array([decode_by_formula(kind, block.tobytes()) for block in blocks])
    np.testing.assert_allclose(numbers, expected, rtol=2e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(("kind", "levels"), [("q4_0", 14), ("q4_1", 15), ("q5_0", 30), ("q5_1", 31), ("q8_0", 254)])
def test_what_was_encoded_comes_back(kind: str, levels: int) -> None:
    numbers = np.random.default_rng(8).uniform(-3, 3, (20, 32)).astype(np.float32)
    back = decoded(kind, np.frombuffer(encode(kind, numbers.reshape(-1)), np.uint8))
    # Half a step, and the rounding of the scale to float16.
    assert np.abs(back - numbers).max() <= 6 / levels * 0.51 + 6 / 1024


@pytest.mark.parametrize("kind", SIZES)
def test_golden_decoding(kind: str) -> None:
    blocks = np.frombuffer(bytes.fromhex(GOLDEN[kind]["blocks"]), np.uint8)
    assert decoded(kind, blocks).astype("<f4").tobytes().hex() == GOLDEN[kind]["numbers"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_golden_encoding(kind: str) -> None:
    numbers = np.frombuffer(bytes.fromhex(GOLDEN["numbers"]), "<f4").astype(np.float32)
    assert encode_blocks(kind, numbers.reshape(-1, 32), "").tobytes().hex() == GOLDEN[kind]["encoded"]
