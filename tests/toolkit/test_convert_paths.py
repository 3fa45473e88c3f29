"""Paths that a conversion may write to, and names of every kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import rwkv_cy
from checkpoints import small_parameters, write_safetensors
from rwkv_cy.config import Config
from rwkv_cy.errors import StorageError
from rwkv_cy.storage import open_model
from rwkv_cy.toolkit.convert import convert, plan_conversion, quantize
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.merge import merge
from rwkv_cy.toolkit.pages.model_page import write_model_page
from rwkv_cy.toolkit.parts import join
from rwkv_cy.toolkit.verify import verify
from rwkv_cy.training import TrainingOptions, train


def write_shards(folder: Path) -> Path:
    """Write a model of two shards, and return its index."""
    parameters = small_parameters()
    names = list(parameters)
    parts = {"b.safetensors": names[:9], "a.safetensors": names[9:]}
    for file, part in parts.items():
        write_safetensors(folder / file, {name: parameters[name] for name in part})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    (folder / "config.json").write_text("{}")
    return index


@pytest.mark.parametrize("name", ["a.safetensors", "b.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("source", [".", "model.safetensors.index.json"])
def test_no_file_of_a_sharded_model_is_a_target(tmp_path: Path, source: str, name: str) -> None:
    write_shards(tmp_path)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(StorageError, match="is the source itself; name another file"):
        convert(tmp_path / source, tmp_path / name, overwrite=True)
    assert (tmp_path / name).read_bytes() == before


def test_no_file_of_a_folder_is_a_target(tmp_path: Path, kjv_checkpoint: Path) -> None:
    """The weights of a folder may be of PyTorch as well."""
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(kjv_checkpoint.read_bytes())
    (tmp_path / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "config.json"):
        with pytest.raises(StorageError, match="is the source itself; name another file"):
            convert(tmp_path, tmp_path / name, overwrite=True)
    report = convert(tmp_path, tmp_path / "t")
    assert report.source_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert convert(tmp_path, tmp_path / "t", overwrite=True).plan.replaces


def test_shards_of_an_index_are_hashed_and_not_the_index(tmp_path: Path) -> None:
    report = convert(write_shards(tmp_path), tmp_path / "t")
    shards = (tmp_path / "a.safetensors").read_bytes() + (tmp_path / "b.safetensors").read_bytes()
    assert report.source_sha256 == hashlib.sha256(shards).hexdigest()
    assert [path.name for path in report.plan.source_files] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("name", ["n" * 300, "nul\0", "\udcff"])
def test_names_that_no_file_has(small: Path, tmp_path: Path, name: str) -> None:
    """None of them may end in an error that is not the package's own."""
    for call in (rwkv_cy.load, inspect, verify, lambda path: convert(path, tmp_path / "t")):
        with pytest.raises(StorageError, match=r"cannot open it|an invalid file name"):
            call(tmp_path / name)
    if name != "\udcff":
        with pytest.raises(StorageError, match=r"File name too long; choose a shorter name|an invalid file name"):
            convert(small, tmp_path / name)


def test_names_that_are_no_text(small: Path, tmp_path: Path) -> None:
    source = tmp_path / "\udcff\x1b"
    source.write_bytes(small.read_bytes())
    convert(source, tmp_path / "\udcfe")
    with open_model(tmp_path / "\udcfe") as model:
        assert model.header.source["name"] == "\udcff\x1b"
    assert verify(tmp_path / "\udcfe").ok


def test_a_slash_at_the_end_names_a_folder(small: Path, tmp_path: Path) -> None:
    """Path drops the slash: a file would be written in place of the folder that is not there."""
    model = rwkv_cy.load(small)
    text, target = tmp_path / "text", f"{tmp_path}/new/"
    text.write_text("abc")
    config = Config(32, 1, architecture="rwkv7", head_size=16)
    calls: list[Callable[[], object]] = [
        lambda: convert(small, target),
        lambda: plan_conversion(small, target),
        lambda: quantize(small, target),
        lambda: export(small, target, format="pth"),
        lambda: merge(small, small, target),
        lambda: join(small, target),
        lambda: write_model_page(small, target),
        lambda: model.save(target),
        lambda: model.initial_state().save(target),
        lambda: train(config, text, target, TrainingOptions(steps=1)),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="expected the name of a file, got that of a folder, .*; name a file in"):
            call()
    assert not (tmp_path / "new").exists()
