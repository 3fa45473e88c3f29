"""Exports read by torch and by the safetensors library."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from rwkv_cy.toolkit.export import export

torch = pytest.importorskip("torch", reason="reads exports with torch: pip install torch==2.13.0")
safetensors = pytest.importorskip("safetensors.torch", reason="pip install safetensors")
pytestmark = pytest.mark.oracle

TYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@pytest.fixture(params=TYPES)
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return a random RWKV-7, saved as theirs.pth by torch."""
    dtype = getattr(torch, TYPES[request.param])
    parameters = random_checkpoint(CONFIGS["rwkv7"]).items()
    tensors = {name: torch.from_numpy(array.copy()).to(dtype) for name, array in parameters}
    torch.save(tensors, tmp_path / "theirs.pth")
    return tensors


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].is_contiguous(), name
        assert torch.equal(found[name], tensor), name


def test_torch_loads_a_pth_file(tmp_path: Path, theirs: dict[str, Any]) -> None:
    path = tmp_path / "ours.pth"
    export(tmp_path / "theirs.pth", path)
    assert_same(torch.load(path, weights_only=True), theirs)
    assert_same(torch.load(path, weights_only=True, mmap=True), theirs)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_a_safetensors_file_has_the_bytes_that_the_library_writes(tmp_path: Path, theirs: dict[str, Any]) -> None:
    export(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    safetensors.save_file(theirs, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_tensors_of_several_types_are_aligned(tmp_path: Path) -> None:
    parameters = random_checkpoint(CONFIGS["rwkv4-odd"])
    write_safetensors(tmp_path / "model.safetensors", parameters)
    export(tmp_path / "model.safetensors", tmp_path / "ours.safetensors", dtype="f16")
    found = safetensors.load_file(tmp_path / "ours.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float16, torch.float32}
    safetensors.save_file(found, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
