"""GGUF exports: read back as they were, with all metadata that llama.cpp asks for."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_safetensors, write_small
from formats.sources import read_all
from formats.writers.gguf_models import CONFIGS, complete, parameters_of, write_source
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import ConfigError, NumericalError, UnsupportedError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS, encode_blocks
from rwkv_cy.formats.gguf.container import Container, read_container
from rwkv_cy.formats.gguf.header import Array
from rwkv_cy.formats.gguf.vocabulary import read_vocabulary
from rwkv_cy.formats.writers.base import ExportedModel, Vocabulary
from rwkv_cy.formats.writers.gguf import GgufFormat
from rwkv_cy.model.language_model import load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export, plan_export

CONFIG = CONFIGS["rwkv7, heads of 64"]
#: llama.cpp has other tensors in their place; nothing reads them.
UNUSED = {f"blocks.0.att.v{n}" for n in "012"}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}
K_TYPES = {"q4_k": (14, "q5_0"), "q5_k": (16, "q5_1"), "q6_k": (18, "q8_0")}


def container(path: Path) -> Container:
    with FileBytes(path) as file:
        return read_container(file)


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path / "s", CONFIGS[name])
    report = export(source, tmp_path / "t.gguf", tokenizer="none")
    assert report.total_rounding is None
    assert report.size == (tmp_path / "t.gguf").stat().st_size
    expected = {key: array for key, array in parameters_of(CONFIGS[name]).items() if key not in UNUSED}
    found = read_all(open_checkpoint(tmp_path / "t.gguf"))
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key][0] == "f32"
        assert found[key][1].shape == array.shape
        assert found[key][1].tobytes() == array.tobytes()
    tokens = list(range(20))
    assert load(tmp_path / "t.gguf").forward(tokens)[0].tobytes() == load(source).forward(tokens)[0].tobytes()


def test_the_same_bytes_from_every_format(tmp_path: Path) -> None:
    """A file of ours, and one that an export was read from, hold the same model."""
    source = write_source(tmp_path / "model", CONFIG)
    export(source, tmp_path / "first.gguf", dtype="bf16", tokenizer="bytes")
    convert(source, tmp_path / "model.h5", dtype="bf16", tokenizer="bytes")
    for origin in ("model.h5", "first.gguf"):
        export(tmp_path / origin, tmp_path / "again.gguf", dtype="bf16", tokenizer="bytes", overwrite=True)
        first, again = container(tmp_path / "first.gguf"), container(tmp_path / "again.gguf")
        assert [t.info.source_dtype for t in again.tensors.values()] == [
            t.info.source_dtype for t in first.tensors.values()
        ]
        found, expected = (read_all(open_checkpoint(tmp_path / f"{n}.gguf")) for n in ("again", "first"))
        assert {n: (d, a.tobytes()) for n, (d, a) in found.items()} == {
            n: (d, a.tobytes()) for n, (d, a) in expected.items()
        }


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_types(tmp_path: Path, dtype: str) -> None:
    source = write_source(tmp_path / "s", CONFIG)
    report = export(source, tmp_path / "t.gguf", dtype=dtype, tokenizer="none")
    found = container(tmp_path / "t.gguf")
    assert found.values["general.file_type"] == FILE_TYPES[dtype]
    large = "q8_0" if dtype.startswith("q") else dtype
    parameters = parameters_of(CONFIG)
    for tensor in report.plan.tensors:
        expected = {"matrix": dtype, "embedding": large, "head": large}.get(tensor.kind, "f32")
        assert tensor.dtype == found.tensors[tensor.name].info.source_dtype == expected, tensor.name
        assert found.tensors[tensor.name].offset % 32 == 0
    read = read_all(open_checkpoint(tmp_path / "t.gguf"))
    for name in ("blocks.1.att.key.weight", "blocks.2.ffn.value.weight", "emb.weight"):
        numbers = widen(read[name][1], read[name][0], "f32")
        kind = large if name == "emb.weight" else dtype
        if kind in ENCODERS:
            blocks = encode_blocks(kind, parameters[name].reshape(-1, 32), "")
            exact = BLOCK_TYPES[kind].decode(blocks).reshape(numbers.shape)
            np.testing.assert_array_equal(numbers, exact)
        else:
            np.testing.assert_allclose(
                numbers, parameters[name], rtol={"f32": 0, "f16": 5e-4, "bf16": 4e-3}[kind], atol=1e-7
            )


def test_rows_that_are_no_whole_blocks_become_f16(tmp_path: Path) -> None:
    config = replace(CONFIG, d_model=80, d_att=80, d_ffn=96, head_size=16)
    report = export(write_source(tmp_path / "s", config), tmp_path / "t.gguf", dtype="q4_0", tokenizer="none")
    dtypes = {tensor.name: tensor.dtype for tensor in report.plan.tensors}
    assert dtypes["blk.1.time_mix_key.weight"] == "f16"
    assert dtypes["blk.1.channel_mix_value.weight"] == "q4_0"


@pytest.mark.parametrize("dtype", K_TYPES)
def test_k_types(tmp_path: Path, dtype: str) -> None:
    """Rows of 128 get a type of smaller blocks, rows of 256 the requested one; embedding and head have 8 bits."""
    source = write_source(tmp_path / "s", CONFIG)
    report = export(source, tmp_path / "t.gguf", dtype=dtype, tokenizer="none")
    dtypes = {tensor.name: tensor.dtype for tensor in report.plan.tensors}
    file_type, smaller = K_TYPES[dtype]
    assert dtypes["blk.1.channel_mix_value.weight"] == dtype
    assert dtypes["blk.1.channel_mix_key.weight"] == smaller
    assert dtypes["token_embd.weight"] == dtypes["output.weight"] == "q8_0"
    wide = replace(CONFIG, d_model=256, d_att=256)
    report = export(write_source(tmp_path / "w", wide), tmp_path / "w.gguf", dtype=dtype, tokenizer="none")
    assert container(tmp_path / "w.gguf").values["general.file_type"] == file_type
    found = read_all(open_checkpoint(tmp_path / "w.gguf"))["blocks.1.att.key.weight"][1]
    expected = parameters_of(wide)["blocks.1.att.key.weight"]
    error = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    assert error == pytest.approx(report.rounding["blk.1.time_mix_key.weight"].relative, rel=1e-5)
    assert error < {"q4_k": 0.08, "q5_k": 0.04, "q6_k": 0.02}[dtype]


def test_float64_becomes_float32(tmp_path: Path) -> None:
    parameters = {name: array.astype("<f8") for name, array in parameters_of(CONFIG).items()}
    report = export(write_safetensors(tmp_path / "s", parameters), tmp_path / "t.gguf", tokenizer="none")
    assert {tensor.dtype for tensor in report.plan.tensors} == {"f32"}
    assert report.total_rounding is None


def test_metadata(tmp_path: Path) -> None:
    source = write_source(tmp_path / "some model", CONFIG)
    export(source, tmp_path / "t.gguf", tokenizer="none")
    ranks = complete(CONFIG).ranks
    assert container(tmp_path / "t.gguf").values == {
        "general.architecture": "rwkv7",
        "general.type": "model",
        "general.name": "some model",
        "general.alignment": 32,
        "general.file_type": 0,
        "general.quantization_version": 2,
        "rwkv7.context_length": 1048576,
        "rwkv7.block_count": 3,
        "rwkv7.attention.layer_norm_epsilon": 1e-5,
        "rwkv7.attention.head_count": 0,
        "rwkv7.wkv.head_size": 64,
        "rwkv7.vocab_size": 300,
        "rwkv7.embedding_length": 128,
        "rwkv7.feed_forward_length": 256,
        "rwkv7.attention.decay_lora_rank": ranks["w"],
        "rwkv7.attention.iclr_lora_rank": ranks["a"],
        "rwkv7.attention.value_residual_mix_lora_rank": ranks["v"],
        "rwkv7.attention.gate_lora_rank": ranks["g"],
        "tokenizer.ggml.model": "none",
    }


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", CONFIG)
    renamed = source.rename(tmp_path / os.fsdecode(b"m\xff.safetensors"))
    export(renamed, tmp_path / "t.gguf", tokenizer="none")
    assert container(tmp_path / "t.gguf").values["general.name"] == "m?"


def test_metadata_of_rwkv6(tmp_path: Path) -> None:
    config = CONFIGS["rwkv6, heads of 32"]
    export(write_source(tmp_path / "s", config), tmp_path / "t.gguf", tokenizer="none")
    values = container(tmp_path / "t.gguf").values
    own = {key: number for key, number in values.items() if key.startswith("rwkv6.")}
    parameters = parameters_of(config)
    assert own == {
        "rwkv6.context_length": 1048576,
        "rwkv6.block_count": 2,
        "rwkv6.attention.layer_norm_epsilon": 1e-5,
        "rwkv6.attention.head_count": 0,
        "rwkv6.vocab_size": 300,
        "rwkv6.embedding_length": 128,
        "rwkv6.feed_forward_length": 256,
        "rwkv6.wkv.head_size": 32,
        "rwkv6.time_mix_extra_dim": parameters["blocks.0.att.time_maa_w2"].shape[1],
        "rwkv6.time_decay_extra_dim": parameters["blocks.0.att.time_decay_w1"].shape[1],
    }


def test_a_model_of_one_layer(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", replace(CONFIG, num_layers=1))
    export(source, tmp_path / "t.gguf", tokenizer="none")
    assert container(tmp_path / "t.gguf").values["rwkv7.attention.value_residual_mix_lora_rank"] > 0  # type: ignore[operator]
    assert load(tmp_path / "t.gguf").forward([1, 2])[0].tobytes() == load(source).forward([1, 2])[0].tobytes()


def test_the_bytes_tokenizer(tmp_path: Path) -> None:
    export(write_source(tmp_path / "s", CONFIG), tmp_path / "t.gguf", tokenizer="bytes")
    values = container(tmp_path / "t.gguf").values
    assert values["tokenizer.ggml.model"] == "rwkv"
    assert "tokenizer.ggml.eos_token_id" not in values
    assert read_vocabulary(tmp_path / "t.gguf") == [bytes([byte]) for byte in range(256)] + [b""] * 44


def vocabulary(tokens: list[bytes], kind: str = "world") -> Vocabulary:
    return Vocabulary(kind, b"", 0, lambda: tokens, lambda: b"")


def values_of(tmp_path: Path, tokens: Vocabulary) -> Path:
    """Write the metadata that a model with this vocabulary gets, and no tensors."""
    source = write_source(tmp_path / "s", CONFIG)
    plan = plan_export(source, tmp_path / "t.gguf", tokenizer="none")
    model = replace(plan.model, vocabulary=tokens)
    assert isinstance(model, ExportedModel)
    (file,) = GgufFormat().files(model, plan.stored)
    (tmp_path / "t.gguf").write_bytes(b"".join(file.blocks(lambda tensor: iter([memoryview(bytes(tensor.nbytes))]))))
    assert (tmp_path / "t.gguf").stat().st_size == file.size
    return tmp_path / "t.gguf"


def test_a_vocabulary_of_the_world_kind(tmp_path: Path) -> None:
    words = [b"", *(bytes([byte]) for byte in range(256)), b"a\xff", b"it's", b'"', b"\\x", b"\n\n"]
    assert words[261] == b"\n\n"
    path = values_of(tmp_path, vocabulary(words))
    values = container(path).values
    assert read_vocabulary(path) == words + [b""] * (300 - len(words))
    assert isinstance(values["tokenizer.ggml.tokens"], Array)
    assert values["tokenizer.ggml.tokens"].count == 300
    ends = {name: values[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot")}
    assert ends == {"bos": 0, "eos": 0, "eot": 261}
    template = str(values["tokenizer.chat_template"])
    assert "rwkv-world" in template
    assert template.count("{%") == template.count("%}")


def test_a_vocabulary_of_more_ids_than_rows_is_cut(tmp_path: Path) -> None:
    path = values_of(tmp_path, vocabulary([b"", *(bytes([byte]) for byte in range(256)), *[b""] * 100]))
    assert len(read_vocabulary(path)) == 300
    assert "tokenizer.ggml.eot_token_id" not in container(path).values


def test_a_hugging_face_tokenizer_is_left_out(tmp_path: Path) -> None:
    theirs = vocabulary([b"a"], "huggingface")
    assert container(values_of(tmp_path, theirs)).values["tokenizer.ggml.model"] == "none"
    model = replace(plan_export(tmp_path / "s", tmp_path / "u.gguf", tokenizer="none").model, vocabulary=theirs)
    (problem,) = GgufFormat().problems(model)
    assert "and the model has a Hugging Face tokenizer" in problem
    assert list(GgufFormat().problems(replace(model, vocabulary=vocabulary([b"a"])))) == []


def test_what_llama_cpp_would_compute_differently_is_refused(tmp_path: Path) -> None:
    wide = replace(CONFIG, d_att=64)
    with pytest.raises(ConfigError, match="expected an attention as wide as the model, 128, got 64; export to another"):
        export(write_source(tmp_path / "s", wide), tmp_path / "t.gguf", tokenizer="none")
    convert(write_source(tmp_path / "s", CONFIG), tmp_path / "m.h5", tokenizer="none")
    plan = plan_export(tmp_path / "m.h5", tmp_path / "t.gguf", tokenizer="none")
    model = replace(plan.model, config=replace(plan.model.config, group_norm_eps=1e-5))
    with pytest.raises(ConfigError, match="expected a group_norm_eps of 0.00064, .* got 1e-05; export to another"):
        GgufFormat().files(model, plan.stored)


def test_versions_that_llama_cpp_does_not_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"layout llama\.cpp: expected a model of RWKV-6, RWKV-7, got RWKV-4"):
        export(write_small(tmp_path / "s"), tmp_path / "t.gguf")


def test_a_tuned_initial_state_is_refused(tmp_path: Path) -> None:
    parameters = parameters_of(CONFIG)
    parameters |= {f"blocks.{i}.att.time_state": np.ones((2, 64, 64), "<f4") for i in range(3)}
    with pytest.raises(UnsupportedError, match=r"layout llama\.cpp"):
        export(write_safetensors(tmp_path / "s", parameters), tmp_path / "t.gguf", tokenizer="none")


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Matrices of 32 MB, written and read with a fraction of that in memory at once."""
    config = replace(CONFIG, d_model=64, d_att=64, d_ffn=64, vocab_size=131_072, num_layers=1)
    source = write_source(tmp_path / "s", config)
    export(write_source(tmp_path / "warm", CONFIG), tmp_path / "t.gguf", tokenizer="none")  # imports
    for dtype in (None, "q8_0", "q4_0"):
        tracemalloc.start()
        export(source, tmp_path / "t.gguf", dtype=dtype, tokenizer="none", overwrite=True)
        convert(tmp_path / "t.gguf", tmp_path / "t.h5", tokenizer="none", overwrite=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 16e6


def test_weights_that_blocks_cannot_hold(tmp_path: Path) -> None:
    parameters = parameters_of(CONFIG)
    parameters["blocks.1.att.key.weight"][3, 5] = np.nan
    source = write_safetensors(tmp_path / "s", parameters)
    with pytest.raises(
        NumericalError, match=r"blk\.1\.time_mix_key\.weight: expected finite weights to quantize to q8_0"
    ):
        export(source, tmp_path / "t.gguf", dtype="q8_0", tokenizer="none")
    assert not (tmp_path / "t.gguf").exists()
