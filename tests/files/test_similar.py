from __future__ import annotations

from pathlib import Path

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.files.similar import similar_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model in some forms."""
    for name in (
        "RWKV-x060-World-1B6.pth",
        "model.h5",
        "model.safetensors.index.json",
        "large-00001-of-00002.safetensors",
        "large-00002-of-00002.safetensors",
        ".hidden.h5",
    ):
        (tmp_path / name).touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "goose.pth").touch()
    return tmp_path


def test_a_path_of_very_many_folders_is_none(folder: Path) -> None:
    assert similar_path(folder / ("a/" * 1500) / "model.h5") is None
    assert similar_path(folder / ("a/" * 50) / "model.h5") is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("model", "model.h5"),
        ("Model.H5", "model.h5"),
        ("model.pth", "model.h5"),
        ("model.safetensors", "model.safetensors.index.json"),
        ("modle.h5", "model.h5"),
        ("rwkv-x060-world-1b6", "RWKV-x060-World-1B6.pth"),
        ("RWKV-x060-World-1B5.pth", "RWKV-x060-World-1B6.pth"),
        ("large.safetensors", "large-00001-of-00002.safetensors"),
        ("model/goose.pth", "models/goose.pth"),
        ("modles/goose.pth", "models/goose.pth"),
    ],
)
def test_what_was_probably_meant(folder: Path, name: str, meant: str) -> None:
    assert similar_path(folder / name) == folder / meant


@pytest.mark.parametrize("name", ["zebra.bin", ".hidden", "modles/duck.pth", "a/b/c/d", "x" * 300])
def test_nothing_similar(folder: Path, name: str) -> None:
    assert similar_path(folder / name) is None


def test_a_report_is_not_meant_by_the_name_of_a_model(folder: Path) -> None:
    for name in ("goose.html", "goose.h5.txt", "goose.svg", "goose.json"):
        (folder / name).touch()
    assert similar_path(folder / "goose.h5") is None
    assert similar_path(folder / "goose.htm") == folder / "goose.html"
    (folder / "goose.gguf").touch()
    assert similar_path(folder / "goose.h5") == folder / "goose.gguf"
    (folder / "RWKV7-0.1B").mkdir()
    assert similar_path(folder / "RWKV7-0.1B.pth") == folder / "RWKV7-0.1B"


def test_a_model_whose_training_was_interrupted(folder: Path) -> None:
    (folder / "writer.h5.training").mkdir()
    with pytest.raises(StorageError, match="writer.h5: .*; its training has not ended: the same command goes on"):
        FileBytes(folder / "writer.h5")


def test_a_shard_is_not_another_one(folder: Path) -> None:
    second = folder / "large-00002-of-00002.safetensors"
    second.unlink()
    assert similar_path(second) is None
    assert similar_path(folder / "lagre-00001-of-00002.safetensors") == folder / "large-00001-of-00002.safetensors"
    with pytest.raises(StorageError, match="No such file or directory; a model in several files needs all of them"):
        FileBytes(second)


def test_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert similar_path(Path("modl.h5")) == Path("model.h5")
    assert similar_path(Path("a/b")) is None
