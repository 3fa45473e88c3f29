"""The layouts of llama.cpp: what is written reads as it was, and what its own converter makes is undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS
from formats.foreign import Array, rwkv6_parameters, rwkv7_parameters, safetensors_bytes
from formats.make_gguf import rwkv7_tensors
from formats.sources import read_all
from rwkv_cy.errors import FormatError
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES
from rwkv_cy.formats.layouts.layout import Layout
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.tensors.tensor import ParameterSource

Parameters = dict[str, Array]


def stateless(parameters: Parameters) -> Parameters:
    return {name: array for name, array in parameters.items() if not name.endswith("time_state")}


#: Parameters, the architecture, and the size of a head.
MODELS: dict[str, tuple[Parameters, str, int]] = {
    "6": (stateless(rwkv6_parameters()), "rwkv6", 16),
    "7": (rwkv7_parameters(), "rwkv7", 16),
    **{
        name: (stateless(random_checkpoint(config)), config.architecture, config.head_size)
        for name, config in CONFIGS.items()
        if config.architecture in GGUF_ARCHITECTURES
    },
}


def opened(path: Path, tensors: Parameters) -> ParameterSource:
    path.write_bytes(safetensors_bytes(tensors))
    return open_safetensors(path)


def shapes_of(source: ParameterSource) -> dict[str, tuple[int, ...]]:
    return {name: source.info(name).shape for name in source.names()}


def applied(path: Path, parameters: Parameters, layout: Layout) -> Parameters:
    source = opened(path, parameters)
    found = read_all(TranslatedSource(source, layout.apply(shapes_of(source))))
    return {name: array for name, (_, array) in found.items()}


def undone(path: Path, tensors: Parameters, layout: Layout) -> Parameters:
    source = opened(path, tensors)
    found = read_all(TranslatedSource(source, layout.undo(shapes_of(source), source.path)))
    return {name: array for name, (_, array) in found.items()}


def assert_same(found: Parameters, expected: Parameters) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("model", MODELS)
def test_undo_takes_back_apply(tmp_path: Path, model: str) -> None:
    parameters, architecture, head_size = MODELS[model]
    layout = GGUF_ARCHITECTURES[architecture].layout(head_size, 0)
    assert layout.holds({name: array.shape for name, array in parameters.items()})
    theirs = applied(tmp_path / "a", parameters, layout)
    assert not [name for name in theirs if name.startswith(("blocks.", "emb.", "head.", "ln_out."))]
    expected = {name: array for name, array in parameters.items() if name not in layout.omitted}
    assert_same(undone(tmp_path / "b", theirs, layout), expected)


def test_every_tensor_of_rwkv7_is_that_of_the_converter(tmp_path: Path) -> None:
    parameters = rwkv7_parameters()
    theirs = {str(t.name): np.frombuffer(t.data, "<f4").reshape(t.shape) for t in rwkv7_tensors(parameters)}
    assert_same(applied(tmp_path / "a", parameters, GGUF_ARCHITECTURES["rwkv7"].layout(16, 0)), theirs)


def converted6(parameters: Parameters, *, fused: bool, rescale: int = 0) -> Parameters:
    """What conversion/rwkv.py makes of RWKV-6, written down a second time."""
    layers = sum(name.endswith(".ln1.weight") for name in parameters)
    theirs = {"token_embd.weight": parameters["emb.weight"], "output.weight": parameters["head.weight"]}
    for part in ("weight", "bias"):
        theirs[f"token_embd_norm.{part}"] = parameters[f"blocks.0.ln0.{part}"]
        theirs[f"output_norm.{part}"] = parameters[f"ln_out.{part}"]
    for i in range(layers):
        att, ffn, blk = f"blocks.{i}.att.", f"blocks.{i}.ffn.", f"blk.{i}."
        share = np.float32(2 ** (i // rescale) if rescale else 1)
        for ours, other in (("ln1", "attn_norm"), ("ln2", "attn_norm_2"), ("att.ln_x", "time_mix_ln")):
            for part in ("weight", "bias"):
                theirs[f"{blk}{other}.{part}"] = parameters[f"blocks.{i}.{ours}.{part}"]
        for name in ("receptance", "key", "value", "gate"):
            theirs[f"{blk}time_mix_{name}.weight"] = parameters[f"{att}{name}.weight"]
        theirs[f"{blk}time_mix_output.weight"] = parameters[f"{att}output.weight"] / share
        for name in ("receptance", "key"):
            theirs[f"{blk}channel_mix_{name}.weight"] = parameters[f"{ffn}{name}.weight"]
        theirs[f"{blk}channel_mix_value.weight"] = parameters[f"{ffn}value.weight"] / share
        theirs[f"{blk}time_mix_lerp_x.weight"] = parameters[f"{att}time_maa_x"].reshape(-1)
        mixes = {name: parameters[f"{att}time_maa_{name}"].reshape(-1) for name in "wkvrg"}
        if fused:
            theirs[f"{blk}time_mix_lerp_fused.weight"] = np.stack(list(mixes.values()))[:, None, None]
        else:
            theirs |= {f"{blk}time_mix_lerp_{name}.weight": mix for name, mix in mixes.items()}
        for name in ("k", "r"):
            theirs[f"{blk}channel_mix_lerp_{name}.weight"] = parameters[f"{ffn}time_maa_{name}"].reshape(-1)
        theirs[f"{blk}time_mix_first.weight"] = parameters[f"{att}time_faaaa"]
        theirs[f"{blk}time_mix_decay.weight"] = parameters[f"{att}time_decay"].reshape(-1)
        for name in ("w1", "decay_w1", "decay_w2"):
            array = parameters[f"{att}time_{name}" if name != "w1" else f"{att}time_maa_w1"]
            theirs[f"{blk}time_mix_{name}.weight"] = np.ascontiguousarray(array.T)
        theirs[f"{blk}time_mix_w2.weight"] = np.ascontiguousarray(parameters[f"{att}time_maa_w2"].transpose(0, 2, 1))
    return theirs


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rescale", [0, 1, 6])
def test_rwkv6_as_the_converter_makes_it(tmp_path: Path, fused: bool, rescale: int) -> None:
    parameters = stateless(rwkv6_parameters())
    layout = GGUF_ARCHITECTURES["rwkv6"].layout(16, rescale)
    theirs = converted6(parameters, fused=fused, rescale=rescale)
    assert_same(undone(tmp_path / "a", theirs, layout), parameters)
    if fused:
        found = applied(tmp_path / "b", parameters, layout)
        assert_same(found, {name: theirs[name] for name in found})
        assert found.keys() == theirs.keys()


def test_fused_mixes_of_another_number(tmp_path: Path) -> None:
    theirs = converted6(stateless(rwkv6_parameters()), fused=True)
    theirs["blk.1.time_mix_lerp_fused.weight"] = theirs["blk.1.time_mix_lerp_fused.weight"][:4]
    with pytest.raises(FormatError, match=r"blk\.1\.time_mix_lerp_fused\.weight: expected 5 rows, one for each of"):
        undone(tmp_path / "a", theirs, GGUF_ARCHITECTURES["rwkv6"].layout(16, 0))


def test_fused_and_separate_mixes_at_once(tmp_path: Path) -> None:
    parameters = stateless(rwkv6_parameters())
    theirs = converted6(parameters, fused=True) | converted6(parameters, fused=False)
    with pytest.raises(FormatError, match=r"time_maa_w: expected one tensor of that name, got"):
        undone(tmp_path / "a", theirs, GGUF_ARCHITECTURES["rwkv6"].layout(16, 0))


def test_a_power_beyond_every_number(tmp_path: Path) -> None:
    layout = GGUF_ARCHITECTURES["rwkv6"].layout(16, 1)
    name = f"blk.{'9' * 40}.time_mix_output.weight"
    found = undone(tmp_path / "a", {name: np.array([[1.0, 0.0]], np.float32)}, layout)
    np.testing.assert_array_equal(found[f"blocks.{'9' * 40}.att.output.weight"], [[np.inf, 0]])


def test_what_llama_cpp_has_no_place_for() -> None:
    for name in ("rwkv6", "rwkv7"):
        layout = GGUF_ARCHITECTURES[name].layout(64, 0)
        for parameters, architecture, _ in MODELS.values():
            shapes = {key: array.shape for key, array in parameters.items()}
            assert layout.holds(shapes) == (architecture == name)
            assert not layout.holds(shapes | {"blocks.1.att.time_state": (1, 1, 1)})
