"""Fuzz target: GGUF files of llama.cpp, with their vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from formats.ggml.test_blocks import SIZES, random_blocks
from formats.make_gguf import TENSOR_TYPES, Gguf, Tensor, value, world_like
from fuzz.reading import read_file, written
from fuzz.target import Target
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.gguf.reader import open_gguf
from rwkv_cy.formats.gguf.vocabulary import read_vocabulary
from rwkv_cy.tensors.tensor import ParameterSource

_VALUES: list[tuple[str | bytes, bytes]] = [
    ("general.architecture", value("string", "rwkv7")),
    ("rwkv7.wkv.head_size", value("uint32", 2)),
]
#: Types of block in one seed: a short file runs in a fraction of the time.
_KINDS = 4


def _blocks(kinds: Sequence[str]) -> bytes:
    """Return a file with a block of each kind, and a vector."""
    tensors = [
        Tensor(kind, (SIZES[kind][0],), random_blocks(kind, 1, 1).tobytes(), TENSOR_TYPES[kind]) for kind in kinds
    ]
    return Gguf(_VALUES, [Tensor.of("blk.0.time_mix_r_k.weight", np.ones(4, "<f2")), *tensors]).to_bytes()


_SEEDS = (
    Gguf(
        [*_VALUES, ("general.alignment", value("uint32", 64)), *world_like([b"a", b"\n", b"\xff"], 6)],
        [Tensor.of("blk.0.time_mix_lerp_fused.weight", np.ones((6, 1, 1, 4), "<f4"))],
        alignment=64,
    ).to_bytes(),
    Gguf(
        _VALUES,
        [
            Tensor.of(name, np.ones(shape, "<f4"))
            for name, shape in {
                "token_embd.weight": (2, 2),
                "blk.0.time_mix_lerp_fused.weight": (6, 1, 1, 2),
                "blk.0.time_mix_w1.weight": (3, 2),
                "blk.0.channel_mix_lerp_k.weight": (2,),
                "output.weight": (2, 2),
            }.items()
        ],
    ).to_bytes(),
    *(_blocks(list(SIZES)[start : start + _KINDS]) for start in range(0, len(SIZES), _KINDS)),
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
