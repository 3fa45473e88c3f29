"""ggml's blocks against the gguf package: the same numbers, to the last bit."""

from __future__ import annotations

import pytest

from formats.ggml.test_blocks import SIZES, decoded, random_blocks

gguf = pytest.importorskip("gguf")

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("kind", SIZES)
def test_decoding_is_that_of_gguf(kind: str) -> None:
    blocks = random_blocks(kind, 400, 11)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind.upper()])
    assert decoded(kind, blocks).tobytes() == expected.tobytes()
