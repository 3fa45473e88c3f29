"""What a JSON text is made of: counts against those of plain code, on texts that are valid and that are not."""

from __future__ import annotations

import random
import re

from rwkv_cy.files.json_text import count_keys, measure


def expected(raw: bytes) -> tuple[int, int, int, int]:
    """Count as :func:`measure` does, character by character of what is outside strings."""
    marks = sum(raw.count(mark) for mark in b'",[]{}')
    digits = max((len(run) for run in re.findall(rb"[0-9]+", raw)), default=0)
    outside = re.sub(rb'"(?:\\["\\]|[^"])*(?:"|$)', b"", raw, flags=re.DOTALL)
    depth = deepest = 0
    for byte in outside:
        depth = depth + 1 if byte in b"[{" else max(0, depth - 1) if byte in b"]}" else depth
        deepest = max(deepest, depth)
    return marks, deepest, digits, outside.count(b":")


def test_counts_of_a_valid_text() -> None:
    assert measure(b'{"a\\"[:": [1, -234], "b": {"c": "{"}}') == (19, 2, 3, 3)
    assert measure(b"") == (0, 0, 0, 0)
    assert measure(b"12") == (0, 0, 2, 0)


def test_counts_of_any_text() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        raw = bytes(rng.choices(b'{}[]",:\\0129 a', k=rng.randrange(30)))
        assert measure(raw) == expected(raw), raw


def test_keys_of_nested_objects() -> None:
    assert count_keys({"a": {"b": 1}, "c": [{"d": [{"e": 2}]}, 3]}) == 5
    assert count_keys([1, "a"]) == count_keys(None) == 0
