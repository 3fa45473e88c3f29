"""Zeros in the channel mix: a model file with a transposed value matrix against a checkpoint without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import small_parameters, write_safetensors, write_small
from rwkv_cy import Config, LanguageModel, load
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.dtypes import QUANTIZED_TYPES, STORAGE_TYPES
from rwkv_cy.errors import SpecError
from rwkv_cy.kernels.matrix import transposed
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.tensors.tensor import Parameter, TensorInfo
from rwkv_cy.toolkit.convert import convert, plan_conversion
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify

VALUE = "blocks.1.ffn.value.weight"
TOKENS = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100]


def bits(model: LanguageModel, threads: int = 1) -> bytes:
    """Logits and state of one token, of two, and of many, the way of each through the kernels."""
    state, found = None, []
    for part in (TOKENS[:1], TOKENS[1:3], TOKENS[3:]):
        logits, state = model.forward(part, state, num_threads=threads)
        found += [logits.tobytes(), state.data.tobytes()]
    return b"".join(found)


@pytest.mark.parametrize("dtype", [None, *STORAGE_TYPES])
def test_a_converted_model_gives_the_bits_of_its_checkpoint(
    kjv_checkpoint: Path, tmp_path: Path, dtype: str | None
) -> None:
    convert(kjv_checkpoint, tmp_path / "model.h5", dtype=dtype)
    with open_model(tmp_path / "model.h5") as file:
        assert [name for name in file.names() if file.info(name).transposed] == [
            f"blocks.{i}.ffn.value.weight" for i in range(6)
        ]
    expected = bits(load(kjv_checkpoint, dtype=dtype))
    for mmap in (True, False):
        model = load(tmp_path / "model.h5", mmap=mmap)
        assert bits(model) == bits(model, 3) == expected


def test_one_token_is_as_many(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "model.h5")
    model = load(tmp_path / "model.h5")
    at_once, state = model.forward(TOKENS, all_logits=True)
    one_by_one, own = [], None
    for token in TOKENS:
        logits, own = model.forward([token], own)
        one_by_one.append(logits)
    assert np.stack(one_by_one).tobytes() == at_once.tobytes()
    assert own is not None
    assert own.data.tobytes() == state.data.tobytes()


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_quantizing_a_transposed_matrix(tmp_path: Path, dtype: str) -> None:
    write_small(tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "f32.h5")
    convert(tmp_path / "small.safetensors", tmp_path / "direct.h5", dtype=dtype)
    convert(tmp_path / "f32.h5", tmp_path / "twice.h5", dtype=dtype)
    with open_model(tmp_path / "direct.h5") as direct, open_model(tmp_path / "twice.h5") as twice:
        assert direct.checksums == twice.checksums
        assert not twice.info(VALUE).transposed
    expected = bits(load(tmp_path / "small.safetensors", dtype=dtype))
    for mmap in (True, False):
        assert bits(load(tmp_path / "f32.h5", dtype=dtype, mmap=mmap)) == expected
    # Out of blocks it comes by rows, and stays so.
    convert(tmp_path / "direct.h5", tmp_path / "again.h5", dtype="f32")
    with open_model(tmp_path / "again.h5") as again:
        assert not again.info(VALUE).transposed
    assert bits(load(tmp_path / "again.h5")) == bits(load(tmp_path / "direct.h5", dtype="f32"))


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_another_type_for_a_model_file(tmp_path: Path, dtype: str) -> None:
    write_small(tmp_path / "small.safetensors")
    first = convert(tmp_path / "small.safetensors", tmp_path / "f32.h5")
    second = convert(tmp_path / "f32.h5", tmp_path / "b.h5", dtype=dtype)
    convert(tmp_path / "small.safetensors", tmp_path / "a.h5", dtype=dtype)
    assert first.fingerprint == second.fingerprint
    with open_model(tmp_path / "a.h5") as a, open_model(tmp_path / "b.h5") as b:
        assert a.checksums == b.checksums
    assert bits(load(tmp_path / "f32.h5", dtype=dtype)) == bits(load(tmp_path / "b.h5"))


def test_a_file_of_version_1(tmp_path: Path) -> None:
    """What earlier writers wrote: the same model, every matrix by rows."""
    write_small(tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "new.h5")
    with open_source(tmp_path / "small.safetensors") as source, open_model(tmp_path / "new.h5") as new:

        def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
            buffer = np.empty(count, np.float32)
            source.read_into(info.name, buffer, start)
            return buffer

        write_model(tmp_path / "old.h5", new.header, [source.info(name) for name in source.names()], read)
    with open_model(tmp_path / "old.h5") as old:
        assert not any(old.info(name).transposed for name in old.names())
    assert bits(load(tmp_path / "old.h5")) == bits(load(tmp_path / "new.h5"))
    convert(tmp_path / "old.h5", tmp_path / "newer.h5")
    with open_model(tmp_path / "new.h5") as new, open_model(tmp_path / "newer.h5") as newer:
        assert new.checksums == newer.checksums


def test_reports_speak_of_the_matrix_as_it_is(tmp_path: Path) -> None:
    write_small(tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "model.h5")
    assert verify(tmp_path / "model.h5").ok
    for tensor in inspect(tmp_path / "model.h5").tensors:
        assert tensor.shape == small_parameters()[tensor.name].shape


def test_bad_numbers_are_counted_either_way(tmp_path: Path) -> None:
    bad = small_parameters()[VALUE].copy()
    bad[3, 5], bad[4, 1] = np.nan, np.inf
    bad[0, 7] = 1e6  # too large for f16
    write_small(tmp_path / "small.safetensors", **{VALUE.replace(".", "__"): bad})
    report = convert(tmp_path / "small.safetensors", tmp_path / "model.h5", dtype="f16")
    found = report.nonfinite[VALUE]
    assert (found.nan, found.inf, report.overflowed) == (1, 1, {VALUE: 1})
    assert f"{VALUE}: 1 NaN and 2 Inf" in verify(tmp_path / "model.h5").problems[0]


def test_the_plan_counts_the_strips(tmp_path: Path) -> None:
    config = Config(d_model=512, num_layers=1, vocab_size=4, d_ffn=16384)
    write_safetensors(tmp_path / "wide.safetensors", {n: p.array for n, p in arrays(config).items()})
    plan = plan_conversion(tmp_path / "wide.safetensors", tmp_path / "model.h5")
    assert [tensor.name for tensor in plan.tensors if tensor.transposed] == ["blocks.0.ffn.value.weight"]
    assert 32 << 20 < plan.memory - (16 << 20) < 40 << 20


def arrays(config: Config) -> dict[str, Parameter]:
    specs = ARCHITECTURES["rwkv4"].parameters(config)
    return {spec.name: Parameter(np.zeros(spec.shape, np.float32), "f32") for spec in specs}


def test_a_model_in_memory(tmp_path: Path) -> None:
    write_small(tmp_path / "small.safetensors")
    usual = load(tmp_path / "small.safetensors")
    own = {name: Parameter(array, "f32") for name, array in small_parameters().items()}
    own[VALUE] = Parameter(transposed(own[VALUE].array), "f32", transposed=True)
    model = LanguageModel(usual.config, own)
    assert bits(model) == bits(LanguageModel(usual.config, small_parameters()))
    assert model.fingerprint == LanguageModel(usual.config, small_parameters()).fingerprint


def test_only_matrices_may_be_stored_transposed(tmp_path: Path) -> None:
    write_small(tmp_path / "small.safetensors")
    convert(tmp_path / "small.safetensors", tmp_path / "model.h5")
    with open_model(tmp_path / "model.h5") as good:
        header = good.header
    parameters = small_parameters()
    infos = [
        TensorInfo(name, array.shape, "f32", "", "", 0, transposed=name == "emb.weight")
        for name, array in parameters.items()
    ]
    write_model(
        tmp_path / "bad.h5", header, infos, lambda info, start, n: parameters[info.name].reshape(-1)[start : start + n]
    )
    message = r"emb\.weight: expected an array that is not transposed, got its transpose; convert the original"
    with open_model(tmp_path / "bad.h5") as bad, pytest.raises(SpecError, match=message):
        _ = Checkpoint(bad).config
