"""Quantization to the K types: errors, special blocks, and every field by decoding what was encoded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from formats.ggml.scalar import decode_by_formula
from rwkv_cy.errors import NumericalError
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import encode_blocks
from rwkv_cy.formats.ggml.encode_superblocks import SUPERBLOCK_ENCODERS

Floats = npt.NDArray[np.float32]

#: Numbers of a sub-block, and levels.
FORMS = {"q4_k": (32, 16), "q5_k": (32, 32), "q6_k": (16, 64)}
#: The root mean square of the errors of normal numbers, relative to that of the numbers; ggml's own are the same.
ERRORS = {"q4_k": 0.0725, "q5_k": 0.0368, "q6_k": 0.0180}


def decoded(kind: str, numbers: Floats) -> Floats:
    return BLOCK_TYPES[kind].decode(encode_blocks(kind, numbers, ""))


def relative(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(np.square(found - expected).sum() / np.square(expected).sum()))


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
@pytest.mark.parametrize("spread", [0.05, 1.0, 1e3])
def test_errors_of_normal_numbers(kind: str, spread: float) -> None:
    numbers = (np.random.default_rng(1).standard_normal((200, 256)) * spread).astype(np.float32)
    assert 0.9 * ERRORS[kind] < relative(decoded(kind, numbers), numbers) < ERRORS[kind]


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
def test_the_search_finds_better_scales_than_the_range(kind: str) -> None:
    """Levels from the smallest number to the largest, without rounding of the scales, are worse for long tails."""
    numbers = np.random.default_rng(2).standard_t(4, (200, 256)).astype(np.float32)
    size, levels = FORMS[kind]
    x = numbers.reshape(-1, size)
    if kind == "q6_k":
        step = np.abs(x).max(axis=1, keepdims=True) / (levels // 2)
        simple = np.clip(np.rint(x / step), -levels // 2, levels // 2 - 1) * step
    else:
        low = np.minimum(x.min(axis=1, keepdims=True), 0)
        step = (x.max(axis=1, keepdims=True) - low) / (levels - 1)
        simple = np.rint((x - low) / step) * step + low
    assert relative(decoded(kind, numbers), numbers) < relative(simple.reshape(numbers.shape), numbers) * 1.01


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
def test_numbers_on_the_levels_come_back(kind: str) -> None:
    """Sub-blocks of different scales and minima, each number in a place of its own."""
    rng = np.random.default_rng(3)
    size, levels = FORMS[kind]
    scales = (rng.integers(20, 64, (20, 256 // size, 1)) / 64).astype(np.float32)
    scales[:, 0] = 63 / 64
    numbers = rng.integers(0, levels, (20, 256 // size, size)).astype(np.float32)
    numbers[:, :, 0], numbers[:, :, 1] = 0, levels - 1
    if kind == "q6_k":
        numbers -= levels // 2
    else:
        minima = rng.integers(1, 64, scales.shape) / 8
        minima[:, 1] = 63 / 8
    numbers = scales * numbers - (0 if kind == "q6_k" else minima)
    numbers = numbers.reshape(20, 256).astype(np.float32)
    found = decoded(kind, numbers)
    assert np.abs(found - numbers).max() < 0.51 * scales.max()
    assert relative(found, numbers) < ERRORS[kind] / 3
    blocks = encode_blocks(kind, numbers, "")
    np.testing.assert_allclose(found[7], decode_by_formula(kind, blocks[7].tobytes()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
def test_special_blocks(kind: str) -> None:
    zeros = np.zeros((1, 256), np.float32)
    assert not decoded(kind, zeros).any()
    assert not decoded(kind, -zeros).any()
    for value in (3.0, -3.0):
        constant = np.full((1, 256), value, np.float32)
        np.testing.assert_allclose(decoded(kind, constant), constant, rtol=2e-3)
    lone = zeros.copy()
    lone[0, 200] = -5
    np.testing.assert_allclose(decoded(kind, lone), lone, rtol=2e-3, atol=5e-3)  # the scales are float16
    tiny = np.full((1, 256), 1e-30, np.float32)
    assert np.isfinite(decoded(kind, tiny)).all()


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
def test_what_blocks_cannot_hold(kind: str) -> None:
    numbers = np.ones((2, 256), np.float32)
    numbers[1, 7] = np.inf
    with pytest.raises(NumericalError, match=f"w: expected finite weights to quantize to {kind}"):
        encode_blocks(kind, numbers, "w")
    numbers[1, 7] = -1e30
    with pytest.raises(NumericalError, match=f"w: expected weights that {kind} can hold, got up to 1e"):
        encode_blocks(kind, numbers, "w")
