"""The K and IQ blocks of ggml decoded number by number, with plain Python, as ggml-common.h describes them."""

from __future__ import annotations

import struct
from collections.abc import Callable

from formats.foreign import decode_block

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(block: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", block, at)[0])


def _q2_k(block: bytes, i: int) -> float:
    scales, q, d, dmin = block[:16], block[16:80], _half(block, 80), _half(block, 82)
    half, crumb, byte = i // 128, i % 128 // 32, i % 32
    level = q[32 * half + byte] >> 2 * crumb & 3
    return d * (scales[i // 16] & 15) * level - dmin * (scales[i // 16] >> 4)


def _q3_k(block: bytes, i: int) -> float:
    high, q, packed, d = block[:32], block[32:96], block[96:108], _half(block, 108)
    half, crumb, byte = i // 128, i % 128 // 32, i % 32
    level = (q[32 * half + byte] >> 2 * crumb & 3) - (0 if high[byte] >> i // 32 & 1 else 4)
    s = i // 16
    low = packed[s] & 15 if s < 8 else packed[s - 8] >> 4
    return d * ((low | (packed[8 + s % 4] >> 2 * (s // 4) & 3) << 4) - 32) * level


def _scale_and_minimum(packed: bytes, s: int) -> tuple[int, int]:
    if s < 4:
        return packed[s] & 63, packed[s + 4] & 63
    return packed[s + 4] & 15 | packed[s - 4] >> 6 << 4, packed[s + 4] >> 4 | packed[s] >> 6 << 4


def _q4_k(block: bytes, i: int) -> float:
    d, dmin, packed, q = _half(block, 0), _half(block, 2), block[4:16], block[16:]
    byte = q[32 * (i // 64) + i % 32]
    level = byte & 15 if i % 64 < 32 else byte >> 4
    scale, minimum = _scale_and_minimum(packed, i // 32)
    return d * scale * level - dmin * minimum


def _q5_k(block: bytes, i: int) -> float:
    d, dmin, packed, high, q = _half(block, 0), _half(block, 2), block[4:16], block[16:48], block[48:]
    byte = q[32 * (i // 64) + i % 32]
    level = (byte & 15 if i % 64 < 32 else byte >> 4) | (high[i % 32] >> i // 32 & 1) << 4
    scale, minimum = _scale_and_minimum(packed, i // 32)
    return d * scale * level - dmin * minimum


def _q6_k(block: bytes, i: int) -> float:
    q, high, scales, d = block[:128], block[128:192], struct.unpack("<16b", block[192:208]), _half(block, 208)
    half, group, byte = i // 128, i % 128 // 32, i % 32
    low = q[64 * half + 32 * (group % 2) + byte]
    level = (low & 15 if group < 2 else low >> 4) | (high[32 * half + byte] >> 2 * group & 3) << 4
    return d * scales[i // 16] * (level - 32)


def _iq4_nl(block: bytes, i: int) -> float:
    byte = block[2 + i % 16]
    return _half(block, 0) * LEVELS[byte & 15 if i < 16 else byte >> 4]


def _iq4_xs(block: bytes, i: int) -> float:
    d, high, low, q = _half(block, 0), struct.unpack_from("<H", block, 2)[0], block[4:8], block[8:]
    s = i // 32
    byte = q[16 * s + i % 16]
    scale = (low[s // 2] >> 4 * (s % 2) & 15 | (high >> 2 * s & 3) << 4) - 32
    return d * scale * LEVELS[byte & 15 if i % 32 < 16 else byte >> 4]


_FORMULAS: dict[str, Callable[[bytes, int], float]] = {
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _iq4_nl,
    "iq4_xs": _iq4_xs,
}


def decode_by_formula(kind: str, block: bytes) -> list[float]:
    """One block of any type."""
    if kind not in _FORMULAS:
        return decode_block(kind, block)
    return [_FORMULAS[kind](block, i) for i in range(32 if kind == "iq4_nl" else 256)]
