"""Every layout: apply and undo are inverses, and a file written through apply reads as the original model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS
from formats.foreign import (
    Array,
    huggingface_name,
    rwkv4_parameters,
    rwkv5_parameters,
    rwkv6_parameters,
    rwkv7_parameters,
    rwkvcpp_file,
    safetensors_bytes,
)
from formats.sources import read_all
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.dtypes import to_storage, widen
from rwkv_cy.errors import FormatError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS, LAYOUTS, layouts_of
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.layouts.web_rwkv import WEB_RWKV_51
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource

Parameters = dict[str, Array]
Stored = dict[str, tuple[str, Array]]


def tuned_rwkv7() -> Parameters:
    """RWKV-7 with an initial state."""
    states = {f"blocks.{i}.att.time_state": np.arange(512, dtype="<f4").reshape(2, 16, 16) + i for i in range(2)}
    return rwkv7_parameters() | states


#: Models by name: of every version by hand, and random ones of every registered architecture.
MODELS: dict[str, Parameters] = {
    "4": rwkv4_parameters(),
    "5.0": rwkv5_parameters("5.0"),
    "5.1": rwkv5_parameters("5.1"),
    "5.2": rwkv5_parameters("5.2"),
    "6": rwkv6_parameters(),
    "6 without a state": {name: a for name, a in rwkv6_parameters().items() if not name.endswith(".time_state")},
    "7": rwkv7_parameters(),
    "7 with a state": tuned_rwkv7(),
    **{name: random_checkpoint(config) for name, config in CONFIGS.items()},
}
#: Some are written only: what they make reads as a model of another version, or with other parameters.
OWN = EXPORT_LAYOUTS["rwkv.cpp"]
ALL = (*LAYOUTS, *OWN, WEB_RWKV_51)
DTYPES = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "bf16": "<u2"}


def shapes_of(source: ParameterSource | Parameters) -> Shapes:
    if isinstance(source, dict):
        return {name: array.shape for name, array in source.items()}
    return {name: source.info(name).shape for name in source.names()}


def pairs() -> Iterator[tuple[Layout, str]]:
    """Yield every layout with every model that it holds."""
    for layout in ALL:
        for name, parameters in MODELS.items():
            if layout.holds(shapes_of(parameters)):
                yield layout, name


every_pair = pytest.mark.parametrize(
    ("layout", "model"), [pytest.param(*pair, id=f"{pair[0].name}: {pair[1]}") for pair in pairs()]
)


def test_every_layout_and_every_architecture_is_tested() -> None:
    assert {layout.name for layout, _ in pairs()} == {layout.name for layout in ALL}
    assert len({layout.name for layout in ALL}) == len(ALL)
    assert set(layouts_of("rwkvcpp", {})) <= set(ALL)
    assert {config.architecture for config in CONFIGS.values()} == ARCHITECTURES.keys()


def opened(path: Path, tensors: Parameters) -> ParameterSource:
    path.write_bytes(safetensors_bytes(tensors))
    return open_safetensors(path)


def applied(source: ParameterSource, layout: Layout) -> ParameterSource:
    return TranslatedSource(source, layout.apply(shapes_of(source)))


def undone(source: ParameterSource, layout: Layout) -> ParameterSource:
    return TranslatedSource(source, layout.undo(shapes_of(source), source.path))


def written_in(layout: Layout, model: str) -> Parameters:
    """Return the parameters of a model, without what the layout omits."""
    return {name: array for name, array in MODELS[model].items() if name not in layout.omitted}


def computed(layout: Layout, model: str) -> set[str]:
    """Return the names of the parameters and of the tensors whose numbers the layout computes."""
    recipes = layout.apply(shapes_of(MODELS[model])).items()
    pairs_of_names = ((name, part.name) for name, recipe in recipes for part in recipe.parts if part.computes)
    return {name for pair in pairs_of_names for name in pair}


def assert_equal(found: Stored, expected: Stored, computed: Set[str] = frozenset()) -> None:
    """Hold two models together, bit for bit but for computed numbers, within the rounding of their types."""
    assert found.keys() == expected.keys()
    for name, (dtype, array) in expected.items():
        assert found[name][1].shape == array.shape, name
        if name in computed:
            numbers = widen(found[name][1], found[name][0], "f64"), widen(array, dtype, "f64")
            np.testing.assert_allclose(*numbers, rtol=0, atol=1e-14 if dtype == "f64" else 2e-6)
        else:
            assert found[name][0] == dtype, name
            assert found[name][1].tobytes() == array.tobytes(), name


@every_pair
@pytest.mark.parametrize("dtype", DTYPES)
def test_undo_takes_back_apply(tmp_path: Path, layout: Layout, model: str, dtype: str) -> None:
    layout = replace(layout, prefix="")
    parameters = {name: to_storage(array, "f32", dtype) for name, array in written_in(layout, model).items()}
    with applied(opened(tmp_path / "model", parameters), layout) as source:
        expected = {name: (dtype, array) for name, array in parameters.items()}
        assert_equal(read_all(undone(source, layout)), expected, computed(layout, model))


@every_pair
def test_apply_takes_back_undo(tmp_path: Path, layout: Layout, model: str) -> None:
    layout = replace(layout, prefix="")
    foreign = read_all(applied(opened(tmp_path / "model", MODELS[model]), layout))
    arrays = {name: array for name, (_, array) in foreign.items()}
    with undone(opened(tmp_path / "foreign", arrays), layout) as source:
        assert_equal(read_all(applied(source, layout)), foreign, computed(layout, model))


@every_pair
def test_a_written_file_reads_as_the_original(tmp_path: Path, layout: Layout, model: str) -> None:
    parameters = written_in(layout, model)
    foreign = read_all(applied(opened(tmp_path / "model", parameters), layout))
    arrays = {name: array for name, (_, array) in foreign.items()}
    (tmp_path / "foreign").write_bytes((rwkvcpp_file if layout in OWN else safetensors_bytes)(arrays))
    expected = READ_AS.get(layout.name, dict)(parameters)
    if layout.name not in READ_AS and not computed(layout, model):
        with open_checkpoint(tmp_path / "model") as original, open_checkpoint(tmp_path / "foreign") as copy:
            assert fingerprint(copy) == fingerprint(original)
    found = read_all(open_checkpoint(tmp_path / "foreign"))
    assert_equal(found, {name: ("f32", array) for name, array in expected.items()}, computed(layout, model))


def widened(parameters: Parameters) -> Parameters:
    """Return RWKV-5.1 as RWKV-5.2."""
    names = ("time_decay", "time_faaaa")
    heads = parameters["blocks.0.att.time_decay"].size
    size = parameters["blocks.0.att.receptance.weight"].shape[0] // heads
    return {
        name: np.repeat(array[:, None], size, axis=1) if name.endswith(names) else array
        for name, array in parameters.items()
    }


#: By name of a layout: the model that is read of what is written in it, where that is another one.
READ_AS: dict[str, Callable[[Parameters], Parameters]] = {
    "web-rwkv, RWKV-5.1": widened,
    "rwkv.cpp, RWKV-5.1": widened,
}


@every_pair
def test_matrices_stay_mapped(tmp_path: Path, layout: Layout, model: str) -> None:
    with applied(opened(tmp_path / "model", MODELS[model]), layout) as source:
        matrices = [name for name in source.names() if name.endswith(".weight") and len(source.info(name).shape) == 2]
        assert len(matrices) > 8
        for name in matrices:
            scaled = layout.name.startswith("rwkv.cpp, RWKV-5") and ".att.value." in name
            if not scaled and not re.search(r"\.lora\.|x_proj", name):
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


def test_flash_linear_attention_rwkv6(tmp_path: Path) -> None:
    """As convert_from_rwkv6.py copies."""
    expected = rwkv6_parameters()
    theirs: Parameters = {}
    for i in range(2):
        att, attn = f"blocks.{i}.att.", f"model.layers.{i}.attn."
        ffn = f"model.layers.{i}.ffn."
        del expected[f"{att}time_state"]
        mixes = dict(zip("wkvrg", np.split(expected[f"{att}time_maa_w1"], 5, axis=1), strict=True))
        theirs[f"{attn}x_proj.0.linear.weight"] = np.concatenate([mixes[m].T for m in "rwkvg"])
        mixes = dict(zip("wkvrg", expected[f"{att}time_maa_w2"], strict=True))
        theirs[f"{attn}x_proj.2.weight"] = np.concatenate([mixes[m].T for m in "rwkvg"], axis=1)
        theirs[f"{attn}x_proj.0.mu"] = expected[f"{att}time_maa_x"].reshape(-1)
        theirs[f"{attn}x_bias"] = np.stack([expected[f"{att}time_maa_{m}"].reshape(-1) for m in "rwkvg"])
        for n, place in (("1", 0), ("2", 2)):
            theirs[f"{attn}w_proj.linear.lora.{place}.weight"] = expected[f"{att}time_decay_w{n}"].T.copy()
        theirs[f"{attn}w_proj.linear.lora.2.bias"] = expected[f"{att}time_decay"].reshape(-1)
        for ours, other in (("receptance", "r"), ("key", "k"), ("value", "v"), ("gate", "g")):
            theirs[f"{attn}{other}_proj.linear.weight"] = expected[f"{att}{ours}.weight"]
        theirs[f"{attn}bonus"] = expected[f"{att}time_faaaa"]
        theirs[f"{attn}o_proj.weight"] = expected[f"{att}output.weight"]
        for ours, mix in (("key", "k"), ("receptance", "r")):
            theirs[f"{ffn}{ours}.linear.weight"] = expected[f"blocks.{i}.ffn.{ours}.weight"]
            theirs[f"{ffn}{ours}.mu"] = expected[f"blocks.{i}.ffn.time_maa_{mix}"].reshape(-1)
        theirs[f"{ffn}value.weight"] = expected[f"blocks.{i}.ffn.value.weight"]
        for ours, other in (("att.ln_x", "attn.g_norm"), ("ln1", "attn_norm"), ("ln2", "ffn_norm")):
            for part in ("weight", "bias"):
                theirs[f"model.layers.{i}.{other}.{part}"] = expected[f"blocks.{i}.{ours}.{part}"]
    for part in ("weight", "bias"):
        theirs[f"model.layers.0.pre_norm.{part}"] = expected[f"blocks.0.ln0.{part}"]
        theirs[f"model.norm.{part}"] = expected[f"ln_out.{part}"]
    theirs |= {"model.embeddings.weight": expected["emb.weight"], "lm_head.weight": expected["head.weight"]}
    assert_model(written(tmp_path, theirs), expected)


@pytest.mark.parametrize("transposed", [True, False])
def test_web_rwkv_6(tmp_path: Path, transposed: bool) -> None:
    """As convert_safetensors.py renames and transposes; some files have the new names alone."""
    expected = rwkv6_parameters()
    theirs = {}
    for name, array in expected.items():
        other = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")
        turned = name.endswith("time_state") or (transposed and name.endswith(("_w1", "_w2")))
        theirs[other] = np.ascontiguousarray(array.swapaxes(-1, -2)) if turned else array
    assert_model(written(tmp_path, theirs), expected)


@pytest.mark.parametrize("version", ["5.1", "5.2"])
def test_web_rwkv_5(tmp_path: Path, version: str) -> None:
    """As convert_safetensors.py: one name is another, and what 5.1 has for a head is repeated."""
    expected = rwkv5_parameters(version)
    if version == "5.1":
        expected = widened(expected)
    theirs = {name.replace("time_faaaa", "time_first"): array for name, array in expected.items()}
    assert_model(written(tmp_path, theirs), expected)


def of_rwkvcpp(tmp_path: Path, tensors: Parameters) -> Parameters:
    (tmp_path / "model").write_bytes(rwkvcpp_file(tensors))
    return {name: array for name, (_, array) in read_all(open_checkpoint(tmp_path / "model")).items()}


@pytest.mark.parametrize("version", ["5.0", "5.1", "5.2"])
def test_rwkvcpp_5(tmp_path: Path, version: str) -> None:
    """As convert_pytorch_to_ggml.py, which takes 5.1 for 5.2."""
    expected = rwkv5_parameters(version)
    theirs: Parameters = {}
    for name, array in expected.items():
        if name.endswith(".time_decay"):
            array = np.exp(-np.exp(array.astype("f8"))).astype("<f4")[..., None]
            array = array if version != "5.0" else array[..., None]
        elif name.endswith(".att.value.weight"):
            array = array / np.float32(8)
        elif name.endswith(".time_faaaa"):
            array = array[..., None]
            if version == "5.0":  # the exponential of a time_first
                name, array = name.replace("time_faaaa", "time_first"), array[..., None]
        elif ".time_" in name:
            array = array.reshape(-1)
        theirs[name] = array
    found = of_rwkvcpp(tmp_path, theirs)
    for name in list(expected):
        if name.endswith(".time_decay"):
            # The decays themselves are those of the file.
            decays = np.exp(-np.exp(found.pop(name).astype("f8")))
            np.testing.assert_allclose(decays, np.exp(-np.exp(expected.pop(name).astype("f8"))), rtol=0, atol=6e-8)
    assert_model(found, expected)


def test_rwkvcpp_6(tmp_path: Path) -> None:
    """As convert_pytorch_to_ggml.py: nothing is computed."""
    expected = MODELS["6 without a state"]
    theirs: Parameters = {}
    for name, array in expected.items():
        if name.endswith((".time_maa_w1", ".time_maa_w2", ".time_decay_w1", ".time_decay_w2")):
            array = np.ascontiguousarray(array.swapaxes(-1, -2))
        elif name.endswith(".time_decay"):
            array = array.reshape(2, 16, 1)
        elif name.endswith(".time_faaaa"):
            array = array[..., None]
        elif ".time_" in name:
            array = array.reshape(-1)
        theirs[name] = array
    assert_model(of_rwkvcpp(tmp_path, theirs), expected)


@pytest.mark.parametrize("value", [-1e-9, 1.0000001])
def test_rwkvcpp_5_with_a_decay_that_is_none(tmp_path: Path, value: float) -> None:
    theirs = read_all(applied(opened(tmp_path / "model", MODELS["5.2"]), OWN[3]))
    arrays = {name: array for name, (_, array) in theirs.items()}
    arrays["blocks.0.att.time_decay"][1, 2, 0] = value
    message = r"blocks.0.att.time_decay: expected exp\(-exp\(time_decay\)\), from 0 to 1, got"
    with pytest.raises(FormatError, match=message):
        of_rwkvcpp(tmp_path, arrays)


def test_transformers_rwkv5_and_6_names(tmp_path: Path) -> None:
    for expected in (rwkv5_parameters("5.2"), rwkv6_parameters()):
        theirs = {
            huggingface_name(name).replace("time_mix_g", "time_mix_gate"): array for name, array in expected.items()
        }
        mixes = "time_mix_gate" if "blocks.0.att.time_mix_g" in expected else "time_maa_g"
        assert f"rwkv.blocks.1.attention.{mixes}" in theirs
        assert_model(written(tmp_path, theirs), expected)


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


@pytest.mark.parametrize("version", ["5.0", "5.1"])
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_first_checkpoints_of_rwkv5_hold_the_logarithm_of_the_bonus(
    tmp_path: Path, version: str, axes: int, dtype: str
) -> None:
    theirs, expected = rwkv5_parameters(version), rwkv5_parameters(version)
    for i in range(2):
        decay, bonus = f"blocks.{i}.att.time_decay", f"blocks.{i}.att.time_faaaa"
        first = to_storage(theirs.pop(bonus), "f32", dtype)
        theirs[f"blocks.{i}.att.time_first"] = first.reshape(-1, 1) if axes == 2 else first
        expected[bonus] = np.exp(widen(first, dtype, "f64")).astype(np.float32)
        if axes == 2:
            theirs[decay] = theirs[decay].reshape(-1, 1)
    found = written(tmp_path, theirs)
    assert_model(found, expected)
    assert all(found[name].dtype == np.float32 for name in found)


@pytest.mark.parametrize("version", ["5.0", "5.1"])
def test_numbers_of_heads_may_be_a_column(tmp_path: Path, version: str) -> None:
    expected = rwkv5_parameters(version)
    heads = ("time_decay", "time_faaaa")
    theirs = {name: array.reshape(-1, 1) if name.endswith(heads) else array for name, array in expected.items()}
    assert_model(written(tmp_path, theirs), expected)
