"""Every layout: apply and undo are inverses, and a file written through apply reads as the original model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import (
    Array,
    huggingface_name,
    rwkv4_parameters,
    rwkv7_parameters,
    rwkvcpp_file,
    safetensors_bytes,
)
from formats.sources import read_all
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.dtypes import to_storage, widen
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.layouts import LAYOUTS, layouts_of
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource

Parameters = dict[str, Array]
Stored = dict[str, tuple[str, Array]]


def rwkv5_parameters() -> Parameters:
    """RWKV-5.1: what it has beside RWKV-4."""
    rng = np.random.default_rng(5)
    extra = {
        f"blocks.{i}.att.{name}": rng.standard_normal(shape).astype("<f4")
        for i in range(2)
        for name, shape in {
            "ln_x.weight": (32,),
            "ln_x.bias": (32,),
            "gate.weight": (32, 32),
            "time_mix_g": (1, 1, 32),
            "time_decay": (2,),
            "time_first": (2,),
        }.items()
    }
    return rwkv4_parameters() | extra


def tuned_rwkv7() -> Parameters:
    """RWKV-7 with an initial state."""
    states = {f"blocks.{i}.att.time_state": np.arange(512, dtype="<f4").reshape(2, 16, 16) + i for i in range(2)}
    return rwkv7_parameters() | states


MODELS = {
    "BlinkDL, RWKV-4": rwkv4_parameters,
    "BlinkDL": tuned_rwkv7,
    "transformers, RWKV-4": rwkv4_parameters,
    "transformers, RWKV-5 and RWKV-6": rwkv5_parameters,
    "transformers, RWKV-7": rwkv7_parameters,
    "web-rwkv, RWKV-7": tuned_rwkv7,
    "rwkv.cpp, RWKV-4": rwkv4_parameters,
    "rwkv.cpp, RWKV-7": rwkv7_parameters,
    "flash-linear-attention, RWKV-7": rwkv7_parameters,
    "flash-linear-attention, RWKV-7, fused mixes": rwkv7_parameters,
    "transformers-rwkv, RWKV-7": rwkv7_parameters,
}
ALL = {layout.name: layout for layout in (*LAYOUTS, *layouts_of("rwkvcpp"))}
DTYPES = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2"}


def test_every_layout_is_tested() -> None:
    assert MODELS.keys() == ALL.keys()


@pytest.fixture(params=MODELS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return ALL[request.param]


def opened(path: Path, tensors: Parameters) -> ParameterSource:
    path.write_bytes(safetensors_bytes(tensors))
    return open_safetensors(path)


def shapes_of(source: ParameterSource) -> Shapes:
    return {name: source.info(name).shape for name in source.names()}


def applied(source: ParameterSource, layout: Layout) -> ParameterSource:
    return TranslatedSource(source, layout.apply(shapes_of(source)))


def undone(source: ParameterSource, layout: Layout) -> ParameterSource:
    return TranslatedSource(source, layout.undo(shapes_of(source), source.path))


def assert_equal(found: Stored, expected: Stored) -> None:
    """Hold two models together, bit for bit but for computed numbers, within the rounding of their types."""
    assert found.keys() == expected.keys()
    for name, (dtype, array) in expected.items():
        assert found[name][1].shape == array.shape, name
        if found[name][0] == dtype and not name.endswith(".time_decay"):
            assert found[name][1].tobytes() == array.tobytes(), name
        else:
            assert name.endswith(".time_decay"), name
            numbers = widen(found[name][1], found[name][0], "f64"), widen(array, dtype, "f64")
            np.testing.assert_allclose(*numbers, rtol=0, atol=5e-15 if dtype == "f64" else 5e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_undo_takes_back_apply(tmp_path: Path, layout: Layout, dtype: str) -> None:
    layout = replace(layout, prefix="")
    parameters = {name: to_storage(array, "f32", dtype) for name, array in MODELS[layout.name]().items()}
    expected = {name: (dtype, array) for name, array in parameters.items()}
    with applied(opened(tmp_path / "model", parameters), layout) as source:
        assert_equal(read_all(undone(source, layout)), expected)


def test_apply_takes_back_undo(tmp_path: Path, layout: Layout) -> None:
    layout = replace(layout, prefix="")
    foreign = read_all(applied(opened(tmp_path / "model", MODELS[layout.name]()), layout))
    arrays = {name: array for name, (_, array) in foreign.items()}
    with undone(opened(tmp_path / "foreign", arrays), layout) as source:
        assert_equal(read_all(applied(source, layout)), foreign)


def test_a_written_file_reads_as_the_original(tmp_path: Path, layout: Layout) -> None:
    parameters = MODELS[layout.name]()
    foreign = read_all(applied(opened(tmp_path / "model", parameters), layout))
    arrays = {name: array for name, (_, array) in foreign.items()}
    write = rwkvcpp_file if layout in layouts_of("rwkvcpp") and layout not in LAYOUTS else safetensors_bytes
    (tmp_path / "foreign").write_bytes(write(arrays))
    found = read_all(open_checkpoint(tmp_path / "foreign"))
    assert_equal(found, {name: ("f32", array) for name, array in parameters.items()})
    if layout.name != "rwkv.cpp, RWKV-4":  # whose decay is rounded
        with open_checkpoint(tmp_path / "model") as model, open_checkpoint(tmp_path / "foreign") as copy:
            assert fingerprint(copy) == fingerprint(model)


def test_matrices_stay_mapped(tmp_path: Path, layout: Layout) -> None:
    with applied(opened(tmp_path / "model", MODELS[layout.name]()), layout) as source:
        matrices = [name for name in source.names() if max(source.info(name).shape) > 32 or ".weight" in name]
        assert len(matrices) > 20
        for name in matrices:
            if ".lora." not in name:
                view = source.view(name)
                assert view is not None, name
                assert not view.flags.owndata


# What each project's own script does, written down a second time. ------------------------------------------------


def written(tmp_path: Path, tensors: Parameters) -> Parameters:
    (tmp_path / "model").write_bytes(safetensors_bytes(tensors))
    return {name: array for name, (_, array) in read_all(open_checkpoint(tmp_path / "model")).items()}


def assert_model(found: Parameters, expected: Parameters) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def fla_name(name: str) -> str:
    """As convert_from_rwkv7.py renames."""
    name = {
        "emb.weight": "embeddings.weight",
        "head.weight": "lm_head.weight",
        "ln_out.weight": "norm.weight",
        "ln_out.bias": "norm.bias",
    }.get(name, name)
    for ours, theirs in {
        "blocks.": "layers.",
        ".att.": ".attn.",
        ".ln0.": ".pre_norm.",
        ".ln1.": ".attn_norm.",
        ".ln2.": ".ffn_norm.",
        "attn.receptance.": "attn.r_proj.",
        "attn.key.": "attn.k_proj.",
        "attn.value.": "attn.v_proj.",
        "attn.output.": "attn.o_proj.",
        "attn.ln_x.": "attn.g_norm.",
    }.items():
        name = name.replace(ours, theirs)
    for m in "wavg":
        for ours, theirs in (("0", "2.bias"), ("1", "0.weight"), ("2", "2.weight")):
            if name.endswith(f".attn.{m}{ours}"):
                name = name[:-2] + f"{m}_lora.lora.{theirs}"
    return name


@pytest.mark.parametrize("prefix", ["model.", "", "module.model."])
@pytest.mark.parametrize("fused", [False, True])
def test_flash_linear_attention(tmp_path: Path, prefix: str, fused: bool) -> None:
    expected = rwkv7_parameters()
    for name in ("v0", "v1", "v2"):
        del expected[f"blocks.0.att.{name}"]
    theirs: Parameters = {}
    for name, array in expected.items():
        if array.ndim == 2 and name[-2:] in {m + n for m in "wavg" for n in "12"}:
            array = np.ascontiguousarray(array.T)
        if name.endswith((".k_k", ".k_a", "0", "ffn.x_k")):
            array = array.reshape(-1)
        theirs[fla_name(name)] = array
    if fused:
        for i in range(2):
            rows = [theirs.pop(f"layers.{i}.attn.x_{name}").reshape(-1) for name in "rwkvag"]
            theirs[f"layers.{i}.attn.x_x"] = np.stack(rows)
    whole = prefix.removesuffix("model.")
    theirs = {(whole if name == "lm_head.weight" else prefix) + name: array for name, array in theirs.items()}
    assert_model(written(tmp_path, theirs), expected)


def test_web_rwkv(tmp_path: Path) -> None:
    expected = tuned_rwkv7()
    theirs = {
        name: np.ascontiguousarray(array.swapaxes(-1, -2))
        if any(part in name for part in ("w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2", "time_state"))
        else array
        for name, array in expected.items()
    }
    assert_model(written(tmp_path, theirs), expected)


def test_a_rank_as_wide_as_the_model_does_not_hide_the_orientation(tmp_path: Path) -> None:
    expected = rwkv7_parameters()
    square = np.arange(1024, dtype="<f4").reshape(32, 32)
    expected |= {f"blocks.{i}.att.w{n}": square + i for i in range(2) for n in (1, 2)}
    assert_model(written(tmp_path, expected), expected)
    theirs = {
        name: np.ascontiguousarray(array.T) if name[-2:] in {m + n for m in "wavg" for n in "12"} else array
        for name, array in expected.items()
    }
    assert_model(written(tmp_path, theirs), expected)


def test_where_no_factor_tells_the_orientation_the_original_one_holds(tmp_path: Path) -> None:
    square = np.arange(1024, dtype="<f4").reshape(32, 32)
    expected = {
        name: square.copy() if name[-2:] in {m + n for m in "wavg" for n in "12"} else array
        for name, array in rwkv7_parameters().items()
    }
    assert_model(written(tmp_path, expected), expected)


def test_transformers_rwkv(tmp_path: Path) -> None:
    expected = rwkv7_parameters()
    theirs: Parameters = {}
    for name, array in expected.items():
        flat = array.reshape(-1) if array.shape[:2] == (1, 1) else array
        name = fla_name(name) if name[-2:] not in {m + n for m in "wavg" for n in "012"} else name
        for ours, other in {
            "embeddings.": "embed_tokens.",
            "layers.0.pre_norm.": "embedding_norm.",
            "blocks.": "layers.",
            ".attn_norm.": ".input_layernorm.",
            ".ffn_norm.": ".post_attention_layernorm.",
            ".attn.": ".linear_attn.",
            ".att.": ".linear_attn.",
            ".ffn.": ".mlp.",
        }.items():
            name = name.replace(ours, other)
        theirs[name if name == "lm_head.weight" else f"model.{name}"] = flat
    assert_model(written(tmp_path, theirs), expected)


def test_transformers_rwkv4_names(tmp_path: Path) -> None:
    expected = rwkv4_parameters()
    assert "rwkv.blocks.1.attention.time_mix_receptance" in map(huggingface_name, expected)
    assert "rwkv.blocks.0.pre_ln.bias" in map(huggingface_name, expected)
    assert_model(written(tmp_path, {huggingface_name(name): array for name, array in expected.items()}), expected)


@pytest.mark.parametrize(
    "name", ["model.embeddings.weight", "embeddings.word_embeddings.weight", "transformer.h.0.attention.key.weight"]
)
def test_others_keep_their_names(tmp_path: Path, name: str) -> None:
    assert list(written(tmp_path, {name: np.zeros(2, "<f4")})) == [name]
