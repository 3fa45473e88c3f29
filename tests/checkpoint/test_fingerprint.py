"""Fingerprint: which changes of a model change it, and which do not."""

from __future__ import annotations

import numpy as np

from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.config import Config
from rwkv_cy.dtypes import f32_to_bf16, widen
from rwkv_cy.kernels.matrix import transposed
from rwkv_cy.tensors.tensor import Parameter

#: A head and an embedding of 25,600 elements, of which samples are read; the rest is read whole.
CONFIG = Config(d_model=8, num_layers=1, vocab_size=3200)


def parameters() -> dict[str, Parameter]:
    rng = np.random.default_rng(0)
    return {
        spec.name: Parameter(rng.standard_normal(spec.shape).astype(np.float32), "f32")
        for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG)
    }


def of(own: dict[str, Parameter]) -> str:
    return fingerprint(MemorySource(CONFIG, own))


def test_every_tensor_moves_it() -> None:
    usual = of(parameters())
    assert usual == of(parameters())
    assert len(usual) == 32
    for name in parameters():
        moved = parameters()
        moved[name].array.reshape(-1)[-1] += 1
        assert of(moved) != usual, name


def test_a_large_tensor_is_looked_at_in_three_places() -> None:
    usual = of(parameters())
    for place in (0, 2047, 12_800, 14_847, 25_600 - 2048, 25_599):
        moved = parameters()
        moved["head.weight"].array.reshape(-1)[place] += 1
        assert of(moved) != usual, place


def test_the_orientation_of_a_matrix_does_not_change_it() -> None:
    usual, own = of(parameters()), parameters()
    for name in ("head.weight", "blocks.0.ffn.value.weight"):
        own[name] = Parameter(transposed(own[name].array), "f32", transposed=True)
    assert of(own) == usual
    own["head.weight"].array[0, 0] += 1
    assert of(own) != usual


def test_the_storage_type_moves_it() -> None:
    bits = {name: f32_to_bf16(p.array) for name, p in parameters().items()}
    narrow = {name: Parameter(array, "bf16") for name, array in bits.items()}
    wide = {name: Parameter(widen(array, "bf16"), "f32") for name, array in bits.items()}
    assert of(narrow) != of(wide)
    same_bits = {name: Parameter(array.view(np.float16), "f16") for name, array in bits.items()}
    assert of(narrow) != of(same_bits)
