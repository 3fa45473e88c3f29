"""Canonical names over any source: detection of layout and prefix, equal elements, duplicate names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.foreign import (
    Array,
    huggingface_name,
    rwkv4_parameters,
    rwkv7_parameters,
    safetensors_bytes,
    squeezed,
    write_shards,
)
from formats.make_pth import zip_checkpoint
from formats.sources import read_all
from rwkv_cy.errors import FormatError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.canonical import canonical, canonical_recipes
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource


def source_of(path: Path, tensors: dict[str, Array]) -> ParameterSource:
    path.write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    return open_safetensors(path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.mark.parametrize("parameters", [rwkv4_parameters(), rwkv7_parameters(), {"x": np.zeros(2, "<f4")}])
def test_canonical_sources_stay_themselves(model: Path, parameters: dict[str, Array]) -> None:
    with source_of(model, parameters) as source:
        assert canonical(source) is source


def test_hugging_face_and_squeezed_names_come_back(model: Path) -> None:
    parameters = rwkv4_parameters()
    theirs = {huggingface_name(name): array for name, array in squeezed(parameters).items()}
    with canonical(source_of(model, theirs)) as source:
        assert isinstance(source, ParameterSource)
        assert isinstance(source, TranslatedSource)
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


def test_other_versions_keep_their_shapes(model: Path) -> None:
    tensors = {
        "rwkv.blocks.0.attention.ln_x.weight": np.zeros(4, "<f4"),
        "rwkv.blocks.0.attention.time_mix_gate": np.zeros((1, 1, 4), "<f4"),
        "rwkv.blocks.0.attention.time_first": np.zeros((1, 4), "<f4"),
        "rwkv.embeddings.weight": np.zeros((4, 4), "<f4"),
    }
    with canonical(source_of(model, tensors)) as source:
        names = ("blocks.0.att.ln_x.weight", "blocks.0.att.time_mix_g", "blocks.0.att.time_first", "emb.weight")
        assert source.names() == names
        assert source.info("blocks.0.att.time_first").shape == (1, 4)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("embeddings.weight", "emb.weight", "emb.weight"),
        ("blocks.0.attention.key.weight", "blocks.0.att.key.weight", "blocks.0.att.key.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "rwkv."])
def test_two_names_for_one_parameter(model: Path, one: str, other: str, both: str, prefix: str) -> None:
    tensors = {f"{prefix}{name}": np.zeros(2, "<f4") for name in (one, other, "blocks.0.feed_forward.key.weight")}
    with source_of(model, tensors) as source:
        with pytest.raises(FormatError, match=rf"{both}: expected one tensor of that name, got {one} and {other}"):
            canonical(source)
        assert len(source.names()) == 3


def test_a_tied_head_is_the_embedding(model: Path) -> None:
    with source_of(model, {"emb.weight": np.arange(4, dtype="<f4").reshape(2, 2)}) as source:
        assert list(canonical_recipes(source)) == ["emb.weight"]
        with TranslatedSource(source, canonical_recipes(source, tied=True)) as tied:
            assert tied.names() == ("emb.weight", "head.weight")
            assert tied.info("head.weight").source_name == "emb.weight"
            np.testing.assert_array_equal(tied.view("head.weight"), source.view("emb.weight"))


def test_a_head_of_its_own_is_not_replaced(model: Path) -> None:
    with source_of(model, {"emb.weight": np.zeros(2, "<f4"), "head.weight": np.ones(2, "<f4")}) as source:
        assert canonical_recipes(source, tied=True)["head.weight"].parts[0].name == "head.weight"


# Prefixes of wrappers. -------------------------------------------------------------------------------------------

WRAPPERS = ["module.", "_orig_mod.", "model.", "_forward_module.", "module._orig_mod.", "x.y.z."]


def assert_model(found: dict[str, tuple[str, Array]], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name][1], array, err_msg=name)


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("parameters", [rwkv4_parameters(), rwkv7_parameters()], ids=["4", "7"])
@pytest.mark.parametrize("head", [False, True], ids=["lone head", "head too"])
def test_prefixes_of_wrappers(model: Path, prefix: str, parameters: dict[str, Array], head: bool) -> None:
    theirs = {name if name == "head.weight" and not head else prefix + name: a for name, a in parameters.items()}
    model.write_bytes(safetensors_bytes(theirs))
    assert_model(read_all(open_checkpoint(model)), parameters)


@pytest.mark.parametrize("form", ["pth", "folder", "shards", "index"])
def test_prefixes_in_every_format(tmp_path: Path, model: Path, form: str) -> None:
    parameters = rwkv7_parameters()
    theirs = {"module." + name: array for name, array in parameters.items()}
    if form == "pth":
        model.write_bytes(zip_checkpoint({name: ("f32", array) for name, array in theirs.items()}).to_bytes())
    elif form == "folder":
        (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(theirs))
        model = tmp_path
    else:
        write_shards(tmp_path, theirs)
        model = tmp_path if form == "shards" else tmp_path / "model.safetensors.index.json"
    assert_model(read_all(open_checkpoint(model)), parameters)


def test_a_prefix_around_hugging_faces_own(model: Path) -> None:
    parameters = rwkv4_parameters()
    theirs = {"module." + huggingface_name(name): array for name, array in parameters.items()}
    model.write_bytes(safetensors_bytes(theirs))
    assert_model(read_all(open_checkpoint(model)), parameters)


def test_a_prefix_that_only_some_have_stays(model: Path) -> None:
    parameters = rwkv4_parameters()
    theirs = {("module." if name.startswith("blocks.") else "") + name: a for name, a in parameters.items()}
    model.write_bytes(safetensors_bytes(theirs))
    with open_checkpoint(model) as source:
        assert source.names() == tuple(theirs)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_names_of_a_state_file_are_no_prefix(model: Path, prefix: str) -> None:
    states = {f"blocks.{i}.att.time_state": np.zeros((2, 4, 4), "<f4") for i in range(2)}
    for count in (1, 2):
        held = dict(list(states.items())[:count])
        model.write_bytes(safetensors_bytes({prefix + name: array for name, array in held.items()}))
        with open_checkpoint(model) as source:
            assert source.names() == tuple(held)


def test_a_prefix_without_names_of_rwkv_stays(model: Path) -> None:
    theirs = {"model.layers.0.self_attn.q_proj.weight": np.zeros(2, "<f4"), "model.norm.weight": np.zeros(2, "<f4")}
    model.write_bytes(safetensors_bytes(theirs))
    with open_checkpoint(model) as source:
        assert source.names() == tuple(theirs)
