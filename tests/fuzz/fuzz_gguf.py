"""Fuzz target: GGUF files of llama.cpp, with their vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from formats.foreign import rwkv7_parameters
from formats.ggml.test_blocks import SIZES, random_blocks
from formats.make_gguf import TENSOR_TYPES, Gguf, Tensor, rwkv7_gguf, value, world_like
from fuzz.reading import read_file, written
from fuzz.target import Target
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.gguf.reader import open_gguf
from rwkv_cy.formats.gguf.vocabulary import read_vocabulary
from rwkv_cy.tensors.tensor import ParameterSource

_SMALL: list[tuple[str | bytes, bytes]] = [
    ("general.architecture", value("string", "rwkv7")),
    ("rwkv7.wkv.head_size", value("uint32", 2)),
    ("general.alignment", value("uint32", 64)),
    *world_like([b"a", b"\n", b"\xff"], 6),
]

_SEEDS = (
    rwkv7_gguf(rwkv7_parameters(2, (1, 2), 1)),
    Gguf(
        _SMALL,
        [
            Tensor.of("blk.0.time_mix_lerp_fused.weight", np.ones((6, 1, 1, 4), "<f4")),
            Tensor.of("blk.0.time_mix_r_k.weight", np.ones(4, "<f2")),
            *(
                Tensor(f"{kind}", (2, size), random_blocks(kind, 2, 1).tobytes(), TENSOR_TYPES[kind])
                for kind, (size, _) in SIZES.items()
            ),
        ],
        alignment=64,
    ).to_bytes(),
)


def _open(path: Path) -> ParameterSource:
    return canonical(open_gguf(path))


def _read(data: bytes) -> None:
    """Read the model in a file of these bytes, and its vocabulary."""
    read_file(data, _open)
    if b"tokenizer.ggml.model" in data:
        with written(data) as path:
            read_vocabulary(path)


_KEYS = ("general.architecture", "general.alignment", "rwkv7.wkv.head_size", "tokenizer.ggml.model")
_NAMES = ("token_embd.weight", "blk.0.time_mix_lerp_fused.weight", "blk.0.time_mix_r_k.weight", "output.weight")
TARGETS = (
    Target(
        "gguf",
        lambda: _SEEDS,
        _read,
        words=(
            *(word.encode() for word in (*_KEYS, *_NAMES, "rwkv7", "tokenizer.ggml.tokens", "rwkv")),
            *(number.to_bytes(4, "little") for number in sorted(set(TENSOR_TYPES.values()))),
        ),
    ),
)
