from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, small_parameters, write_small
from cli.conftest import Run
from formats.foreign import rwkv7_parameters, rwkvcpp_bytes, safetensors_bytes
from formats.make_gguf import rwkv7_gguf
from formats.make_pth import legacy_checkpoint, zip_checkpoint
from rwkv_cy.toolkit.convert import convert


def test_a_sound_file(run: Run, small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5")
    result = run("verify", tmp_path / "m.h5")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("result        ok\n")
    assert "compared" in result.out


FORMATS = {
    "pth": lambda: zip_checkpoint(STORED).to_bytes(),
    "legacy": lambda: legacy_checkpoint(STORED),
    "safetensors": lambda: safetensors_bytes(small_parameters()),
    "bin": lambda: rwkvcpp_bytes(small_parameters()),
    "gguf": lambda: rwkv7_gguf(rwkv7_parameters()),
}
STORED = {name: ("f32", array.astype("<f4")) for name, array in small_parameters().items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_checksums_of_other_formats(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(FORMATS[kind]())
    result = run("verify", path)
    assert result.code == 0
    expected = f"{len(STORED)} compared" if kind == "pth" else "none in this format"
    assert f"checksums     {expected}\n" in result.out


def test_an_archive_that_torch_wrote_without_checksums(run: Run, tmp_path: Path) -> None:
    archive = zip_checkpoint(STORED)
    for entry in archive.entries:
        entry.crc = 0
    assert "checksums     none in this file\n" in run("verify", archive.write(tmp_path / "m.pth")).out


def test_a_damaged_archive(run: Run, tmp_path: Path) -> None:
    """Two bytes changed inside of a tensor: what the archive's own checksum is for."""
    path = zip_checkpoint(STORED).write(tmp_path / "m.pth")
    content = bytearray(path.read_bytes())
    at = content.index(small_parameters()["blocks.1.ffn.key.weight"].tobytes())
    content[at + 4 : at + 6] = b"\x12\x34"
    path.write_bytes(content)
    result = run("verify", path)
    assert result.code == 1
    assert result.err.startswith(f"rwkv-cy: error: {path}: blocks.1.ffn.key.weight: expected bytes with the checksum ")


def test_a_damaged_file(run: Run, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    convert(small, target)
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 0x80
    target.write_bytes(content)
    result = run("verify", target)
    assert result.code == 1
    assert result.err.startswith(f"rwkv-cy: error: {target}: ")
    assert "1 problem\n" in result.out


def test_several_problems(run: Run, tmp_path: Path) -> None:
    bad = numbers(np.nan, shape=(32,))
    result = run("verify", write_small(tmp_path / "s", ln_out__bias=bad, ln_out__weight=bad))
    assert result.code == 1
    assert "2 problems\n" in result.out
    assert result.err.count("\n") == 2


def test_json(run: Run, small: Path) -> None:
    report = json.loads(run("verify", small, "--json").out)
    fields = {"schema", "path", "format", "tensors", "bytes_read", "checksums", "problems", "against", "ok"}
    assert set(report) == fields
    assert report["ok"] is True


def test_against_its_source(run: Run, small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5", dtype="q8")
    result = run("verify", tmp_path / "m.h5", "--against", small)
    assert (result.code, result.err) == (0, "")
    assert "rounded or quantized as a conversion does\n" in result.out
    other = write_small(tmp_path / "other", ln_out__bias=numbers(3, shape=(32,)))
    result = run("verify", tmp_path / "m.h5", "--against", other)
    assert result.code == 1
    assert f"ln_out.bias: expected 3 at (0), as {other} has it, in f32, got " in result.err
