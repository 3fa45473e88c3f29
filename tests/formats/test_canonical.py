"""Canonical names over any source: translated, reshaped, the same elements, and no two for one parameter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.foreign import Array, huggingface_name, rwkv4_parameters, safetensors_bytes, squeezed
from rwkv_cy.errors import FormatError
from rwkv_cy.formats.canonical import CanonicalNames, canonical, canonical_table
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource


def source_of(path: Path, tensors: dict[str, Array]) -> ParameterSource:
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    return open_safetensors(path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_canonical_sources_stay_themselves(model: Path) -> None:
    with source_of(model, rwkv4_parameters()) as source:
        assert canonical(source) is source


def test_hugging_face_and_squeezed_names_come_back(model: Path) -> None:
    parameters = rwkv4_parameters()
    theirs = {huggingface_name(name): array for name, array in squeezed(parameters).items()}
    with canonical(source_of(model, theirs)) as source:
        assert isinstance(source, ParameterSource)
        assert isinstance(source, CanonicalNames)
        assert (source.path, source.format, source.metadata) == (model, "safetensors", {"format": "pt"})
        assert source.names() == tuple(parameters)
        source.check()
        for name, array in parameters.items():
            info = source.info(name)
            assert (info.name, info.source_name) == (name, huggingface_name(name))
            assert info.shape == array.shape
            view = source.view(name)
            assert view is not None
            np.testing.assert_array_equal(view, array)
            part = np.empty(5, "<f4")
            source.read_into(name, part, 2)
            np.testing.assert_array_equal(part, array.reshape(-1)[2:7])
        with pytest.raises(KeyError):
            source.info("rwkv.embeddings.weight")


def test_misaligned_tensors_have_no_view(model: Path) -> None:
    tensors = {"x": np.zeros(1, "<f2"), "rwkv.embeddings.weight": np.zeros((2, 2), "<f4")}
    with canonical(source_of(model, tensors)) as source:
        assert source.view("emb.weight") is None


def test_other_versions_keep_their_shapes(model: Path) -> None:
    tensors = {
        "rwkv.blocks.0.attention.ln_x.weight": np.zeros(4, "<f4"),
        "rwkv.blocks.0.attention.time_mix_gate": np.zeros((1, 1, 4), "<f4"),
        "rwkv.blocks.0.attention.time_first": np.zeros((1, 4), "<f4"),
    }
    with canonical(source_of(model, tensors)) as source:
        assert source.names() == ("blocks.0.att.ln_x.weight", "blocks.0.att.time_mix_g", "blocks.0.att.time_first")
        assert source.info("blocks.0.att.time_first").shape == (1, 4)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("rwkv.embeddings.weight", "emb.weight", "emb.weight"),
        ("rwkv.blocks.0.attention.key.weight", "blocks.0.attention.key.weight", "blocks.0.att.key.weight"),
    ],
)
def test_two_names_for_one_parameter(model: Path, one: str, other: str, both: str) -> None:
    with source_of(model, {one: np.zeros(2, "<f4"), other: np.zeros(2, "<f4")}) as source:
        with pytest.raises(FormatError, match=rf"{both}: expected one tensor of that name, got {one} and {other}"):
            canonical(source)
        assert source.names() == (one, other)


def test_a_tied_head_is_the_embedding(model: Path) -> None:
    with source_of(model, {"emb.weight": np.arange(4, dtype="<f4").reshape(2, 2)}) as source:
        assert list(canonical_table(source)) == ["emb.weight"]
        with CanonicalNames(source, canonical_table(source, tied=True)) as tied:
            assert tied.names() == ("emb.weight", "head.weight")
            assert tied.info("head.weight").source_name == "emb.weight"
            np.testing.assert_array_equal(tied.view("head.weight"), source.view("emb.weight"))


def test_a_head_of_its_own_is_not_replaced(model: Path) -> None:
    with source_of(model, {"emb.weight": np.zeros(2, "<f4"), "head.weight": np.ones(2, "<f4")}) as source:
        assert canonical_table(source, tied=True)["head.weight"].inner == "head.weight"
