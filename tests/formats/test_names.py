"""Names and shapes of others: each comes back to what the original checkpoints have."""

from __future__ import annotations

import pytest

from formats.foreign import huggingface_name, rwkv4_parameters, squeezed
from rwkv_cy.formats.names import canonical_shape, from_huggingface, is_huggingface, is_rwkv4


def test_every_name_of_rwkv4() -> None:
    names = rwkv4_parameters()
    assert not is_huggingface(names)
    translated = [huggingface_name(name) for name in names]
    assert is_huggingface(translated)
    assert "rwkv.blocks.1.attention.time_mix_receptance" in translated
    assert "rwkv.blocks.0.pre_ln.bias" in translated
    assert [from_huggingface(name) for name in translated] == list(names)


def test_the_bare_model_has_no_prefix() -> None:
    assert is_huggingface(["blocks.0.attention.key.weight"])
    assert from_huggingface("blocks.0.attention.key.weight") == "blocks.0.att.key.weight"
    assert is_huggingface(["embeddings.weight"])
    assert from_huggingface("embeddings.weight") == "emb.weight"


@pytest.mark.parametrize(
    "name", ["model.embeddings.weight", "embeddings.word_embeddings.weight", "transformer.h.0.attention.key.weight"]
)
def test_others_are_not_taken_for_rwkv(name: str) -> None:
    assert not is_huggingface([name])


def test_rwkv4_is_told_by_its_names() -> None:
    assert is_rwkv4(rwkv4_parameters())
    assert not is_rwkv4(["emb.weight"])
    assert not is_rwkv4([*rwkv4_parameters(), "blocks.0.att.ln_x.weight"])


def test_every_squeezed_shape_comes_back() -> None:
    parameters = rwkv4_parameters()
    for name, array in squeezed(parameters).items():
        assert canonical_shape(name, array.shape) == parameters[name].shape, name


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blocks.0.att.time_decay", (1, 1, 8), (8,)),
        ("blocks.0.att.time_first", (8, 1), (8,)),
        ("blocks.0.att.time_first", (1,), (1,)),
        ("blocks.0.att.time_decay", (), ()),
        ("blocks.0.att.time_decay", (4, 2), (4, 2)),
        ("blocks.0.ffn.time_mix_k", (1, 8), (1, 1, 8)),
        ("blocks.0.ffn.time_mix_k", (2, 4), (2, 4)),
        ("blocks.0.ln1.weight", (1, 8), (1, 8)),
        ("emb.weight", (1, 8), (1, 8)),
    ],
)
def test_shapes(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert canonical_shape(name, shape) == expected
