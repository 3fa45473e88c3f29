"""Fuzz target: safetensors files, compared with the reference library."""

from __future__ import annotations

import numpy as np
import safetensors

from formats.foreign import (
    SAFETENSORS_TYPES,
    huggingface_name,
    rwkv4_parameters,
    safetensors_bytes,
    safetensors_file,
)
from fuzz import repair
from fuzz.reading import read_everything, written
from fuzz.target import Target
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.safetensors import open_safetensors

_LEFT_OUT = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "step": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
    "none": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [16, 16]},
    "mask": {"dtype": "BOOL", "shape": [2, 1], "data_offsets": [16, 18]},
}

_SEEDS = (
    safetensors_file(_LEFT_OUT, bytes(18)),
    safetensors_bytes({}),
    safetensors_bytes({kind: np.ones((2, 3), dtype) for kind, dtype in SAFETENSORS_TYPES.items()}, {"format": "pt"}),
    safetensors_bytes(
        {huggingface_name(name): array for name, array in list(rwkv4_parameters(2, 1, 1, 1).items())[:9:2]},
        {"a": '\\"é'},
    ),
    safetensors_bytes(
        {
            "model.layers.0.attn.x_x": np.ones((6, 2), "<f4"),
            "model.layers.0.attn.w_lora.lora.0.weight": np.ones((3, 2), "<f4"),
            "model.layers.0.attn.w_lora.lora.2.bias": np.ones(2, "<f4"),
            "model.embeddings.weight": np.ones((1, 2), "<f4"),
            "lm_head.weight": np.ones((1, 2), "<f4"),
        }
    ),
    # The mixes of RWKV-6, grouped and transposed in several ways.
    safetensors_bytes(
        {
            "layers.0.attn.x_proj.0.mu": np.ones(2, "<f4"),
            "layers.0.attn.x_proj.0.linear.weight": np.arange(20, dtype="<f4").reshape(10, 2),
            "layers.0.attn.x_proj.2.weight": np.arange(20, dtype="<f4").reshape(2, 10),
            "layers.0.attn.x_bias": np.arange(10, dtype="<f4").reshape(5, 2),
            "layers.0.attn.w_proj.linear.lora.2.bias": np.ones(2, "<f4"),
        }
    ),
    safetensors_bytes(
        {
            "blocks.0.att.time_mix_x": np.ones(2, "<f4"),
            "blocks.0.att.time_mix_w1": np.arange(20, dtype="<f4").reshape(10, 2),
            "blocks.0.att.time_mix_w2": np.arange(20, dtype="<f4").reshape(5, 2, 2),
            "blocks.0.att.time_first": np.ones((1, 2), "<f4"),
            "emb.weight": np.ones((1, 2), "<f4"),
        }
    ),
)


def _read(data: bytes) -> None:
    """Read a file of these bytes; what opens must open with the reference library too, under the same names."""
    with written(data) as path, open_safetensors(path) as raw:
        with safetensors.safe_open(path, "numpy") as reference:
            names = reference.keys()
            theirs = {name: tuple(reference.get_slice(name).get_shape()) for name in names}
        ours = {name: raw.info(name).shape for name in raw.names()}
        if theirs != ours | {name: theirs.get(name) for name in raw.left_out}:
            raise AssertionError(f"the reference library sees {theirs}")
        read_everything(canonical(raw), len(data))


_WORDS = (
    *(b'"%s"' % kind for kind in (b"F64", b"F32", b"F16", b"BF16", b"I64", b"BOOL", b"F8_E4M3", b"dtype", b"shape")),
    *(b'"data_offsets"', b'"__metadata__"', b"[0,8]", b"model.layers.0.attn.", b"blocks.0.att.", b".weight"),
)
TARGETS = (Target("safetensors", lambda: _SEEDS, _read, repair.safetensors, _WORDS),)
