"""The checksum that a source has for the bytes of a tensor is that of what it reads."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.checkpoints import write_checkpoint
from rwkv_cy import Config, convert, export
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.toolkit.export_plan import make_export_plan

RANKS = dict.fromkeys("wavg", 8)
CONFIG = Config(d_model=64, num_layers=2, vocab_size=40, architecture="rwkv7", head_size=64, ranks=RANKS)


def compared(source: ParameterSource) -> set[str]:
    """Return the tensors whose checksum is known, after comparing it with what is read."""
    names = {name for name in source.names() if source.checksum(name) is not None}
    for name in names:
        info = source.info(name)
        buffer = np.empty(int(np.prod(info.array_shape)), info.codec.array_dtype)
        source.read_into(name, buffer)
        assert source.checksum(name) == zlib.crc32(buffer.data), name
    return names


def test_a_pth_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG, "bf16")
    with Checkpoint.open(path) as checkpoint:
        assert compared(checkpoint.source) == set(checkpoint.source.names())


@pytest.mark.parametrize("dtype", ["f32", "bf12", "q8"])
def test_a_model_file(tmp_path: Path, dtype: str) -> None:
    write_checkpoint(tmp_path / "tiny.pth", CONFIG)
    convert(tmp_path / "tiny.pth", tmp_path / "tiny.h5", dtype=dtype, tokenizer="none")
    with Checkpoint.open(tmp_path / "tiny.h5") as checkpoint:
        assert compared(checkpoint.source) == set(checkpoint.source.names())


@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "bin", "st"])
def test_formats_without_checksums(tmp_path: Path, suffix: str) -> None:
    write_checkpoint(tmp_path / "tiny.pth", CONFIG)
    export(tmp_path / "tiny.pth", tmp_path / f"tiny.{suffix}", tokenizer="none")
    with Checkpoint.open(tmp_path / f"tiny.{suffix}") as checkpoint:
        assert not compared(checkpoint.source)


def test_tensors_that_are_renamed_keep_theirs_and_computed_ones_do_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny.pth", CONFIG)
    with Checkpoint.open(tmp_path / "tiny.pth") as checkpoint:
        plan, tensors = make_export_plan(checkpoint, tmp_path / "tiny.gguf", layout=None, tokenizer="none")
        names = compared(tensors)
    assert "blk.0.channel_mix_key.weight" in names
    assert "blk.0.time_mix_lerp_fused.weight" in {tensor.name for tensor in plan.stored} - names
