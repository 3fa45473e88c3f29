"""Quantization to ggml's blocks: by the formulas number by number, by gguf's own quantizer, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.errors import NumericalError
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS, encode_blocks

Floats = npt.NDArray[np.float32]
KINDS = tuple(ENCODERS)


def samples(count: int = 4000) -> Floats:
    """Blocks of weights of all magnitudes, with ties, zeros of both signs, and values on the border of two levels."""
    rng = np.random.default_rng(11)
    numbers = rng.standard_normal((count, 32)) * 10.0 ** rng.integers(-9, 4, (count, 1))
    numbers[::7] = rng.integers(-8, 9, numbers[::7].shape) / 2.0  # half way between two levels
    numbers[1::97] = -np.abs(numbers[1::97])
    numbers[2::97] = np.abs(numbers[2::97])
    numbers[3] = 0
    numbers[4] = -0.0
    numbers[5, ::2], numbers[5, 1::2] = 0.0, -0.0
    numbers[6, ::2], numbers[6, 1::2] = -0.0, 0.0
    numbers[8, ::2], numbers[8, 1::2] = 3.0, -3.0
    numbers[9] = 2.5
    numbers[10] = 1e-30
    return numbers.astype(np.float32)


def one_block(kind: str, block: Floats) -> dict[str, Any]:
    """The fields of one block, a float32 operation at a time, as the loops of ggml have them."""
    one, half = np.float32(1), np.float32(0.5)
    if kind == "q8_0":
        d = np.float32(max(abs(x) for x in block)) / np.float32(127)
        inverse = one / d if d else np.float32(0)
        scaled = [float(x * inverse) for x in block]
        return {"d": d, "q": [int(abs(x) + 0.5) * (1 if x >= 0 else -1) for x in scaled]}
    bits = 4 if kind.startswith("q4") else 5
    last = (1 << bits) - 1
    if kind.endswith("0"):
        largest = np.float32(0)
        for x in block:
            if abs(x) > abs(largest):
                largest = x
        zero = np.float32(1 << (bits - 1))
        d = largest / -zero
        inverse = one / d if d else np.float32(0)
        fields: dict[str, Any] = {"d": d}
        levels = [min(int(x * inverse + (zero + half)), last) for x in block]
    else:
        low = high = block[0]
        for x in block:
            low, high = (x if x < low else low), (x if x > high else high)
        d = (high - low) / np.float32(last)
        inverse = one / d if d else np.float32(0)
        fields = {"d": d, "m": low}
        levels = [min(int((x - low) * inverse + half), last) for x in block]
    fields["q"] = [(levels[i] & 15) | (levels[i + 16] & 15) << 4 for i in range(16)]
    if bits == 5:
        fields["h"] = sum((level >> 4) << i for i, level in enumerate(levels))
    return fields


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_is_that_of_the_formulas(kind: str) -> None:
    numbers = samples(300)
    blocks = encode_blocks(kind, numbers, "model: a")
    assert blocks.dtype == BLOCK_TYPES[kind].layout
    with np.errstate(over="ignore"):  # the inverse of a scale near 1e-38
        for block, encoded in zip(numbers, blocks, strict=True):
            expected = np.zeros(1, BLOCK_TYPES[kind].layout)
            for field, value in one_block(kind, block).items():
                expected[field] = value
            assert encoded.tobytes() == expected.tobytes(), block


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_is_that_of_gguf(kind: str) -> None:
    quants = pytest.importorskip("gguf.quants", reason="needs gguf")
    gguf = pytest.importorskip("gguf", reason="needs gguf")
    numbers = samples(20000)
    numbers[4:7] = 1  # its zeros may have the other sign
    expected = quants.quantize(numbers, getattr(gguf.GGMLQuantizationType, kind.upper()))
    assert encode_blocks(kind, numbers, "model: a").tobytes() == expected.tobytes()


@pytest.mark.parametrize(("kind", "steps"), [("q4_0", 8), ("q4_1", 15), ("q5_0", 16), ("q5_1", 31), ("q8_0", 127)])
def test_it_decodes_to_the_nearest_levels(kind: str, steps: int) -> None:
    numbers = np.random.default_rng(3).uniform(-1, 1, (500, 32)).astype(np.float32)
    decoded = BLOCK_TYPES[kind].decode(encode_blocks(kind, numbers, ""))
    step = (np.ptp(numbers, axis=1) if kind.endswith("1") else np.abs(numbers).max(axis=1)) / steps
    # Half a step, or a whole one where the largest of the other sign has no level; and the float16 scales.
    whole = 1.0 if kind in ("q4_0", "q5_0") else 0.5
    assert (np.abs(decoded - numbers).max(axis=1) <= step * whole * 1.01 + 1e-3).all()
    assert np.abs(decoded - numbers).max() > 0.3 * step.min()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    numbers = np.ones((3, 32), np.float32)
    numbers[1, 5] = value
    message = f"model: a: expected finite weights to quantize to {kind}, got NaN or infinity"
    with pytest.raises(NumericalError, match=message):
        encode_blocks(kind, numbers, "model: a")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_beyond_the_scales_are_refused(kind: str) -> None:
    numbers = np.ones((3, 32), np.float32)
    numbers[1, 5] = -3e38
    with pytest.raises(NumericalError, match=f"model: a: expected weights that {kind} can hold, got up to 3e"):
        encode_blocks(kind, numbers, "model: a")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_too_small_for_the_scales_are_zero(kind: str) -> None:
    numbers = np.full((1, 32), 1e-39, np.float32)
    numbers[0, 3] = -1e-42
    assert not BLOCK_TYPES[kind].decode(encode_blocks(kind, numbers, "")).any()
