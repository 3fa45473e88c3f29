"""Fuzz target: model files of rwkv.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from formats.foreign import (
    RWKVCPP_TYPES,
    encode,
    rwkv4_parameters,
    rwkvcpp_bytes,
    rwkvcpp_file,
    rwkvcpp_header,
    rwkvcpp_tensor,
)
from fuzz.reading import read_file
from fuzz.target import Target
from rwkv_cy.formats.canonical import canonical
from rwkv_cy.formats.rwkvcpp import open_rwkvcpp
from rwkv_cy.tensors.tensor import ParameterSource

_NUMBERS = np.linspace(-1, 1, 32)

_SEEDS = (
    rwkvcpp_header(),
    rwkvcpp_bytes(dict(list(rwkv4_parameters(2, 2, 1, 2).items())[:8]), "fp16"),
    rwkvcpp_file(
        {
            "emb.weight": np.ones((2, 4)),
            "blocks.0.att.x_rwkvag": np.ones((6, 1, 4)),
            "blocks.0.att.w1": np.ones((3, 4)),
            "blocks.0.att.w0": np.ones((1, 1, 4)),
            "blocks.0.ln1.weight": np.ones(4),
        }
    ),
    rwkvcpp_header(1, 64, 0, RWKVCPP_TYPES["q5_1"])
    + b"".join(rwkvcpp_tensor(kind, (1, 32), encode(kind, _NUMBERS), number) for kind, number in RWKVCPP_TYPES.items()),
)


def _open(path: Path) -> ParameterSource:
    return canonical(open_rwkvcpp(path))


def _read(data: bytes) -> None:
    """Read a file of these bytes."""
    read_file(data, _open)


_NAMES = ("emb.weight", "head.weight", "blocks.0.ln1.weight", "blocks.0.att.time_decay", "blocks.0.att.x_rwkvag")
TARGETS = (
    Target(
        "rwkvcpp",
        lambda: _SEEDS,
        _read,
        words=(
            *(name.encode() for name in _NAMES),
            *(number.to_bytes(4, "little") for number in (*RWKVCPP_TYPES.values(), 100, 101)),
        ),
    ),
)
