from __future__ import annotations

from pathlib import Path

import pytest

import rwkv_cy
from checkpoints import write_small
from formats.foreign import huggingface_parameters, write_shards
from hub.server import HubServer, Repository
from rwkv_cy.errors import ConfigError, HubError, StorageError
from rwkv_cy.toolkit.pull import hub_name_of, list_repository, pull


@pytest.fixture
def repository(hub: HubServer, tmp_path: Path) -> Repository:
    """Return a repository o/n with two models and a vocabulary."""
    small = write_small(tmp_path / "made.safetensors").read_bytes()
    files = {"g1-0.1b.safetensors": small, "g1-0.4b.safetensors": small + b"", "vocab.json": b"{}", "sub/x.pth": b"x"}
    hub.repositories["o/n"] = Repository(files)
    return hub.repositories["o/n"]


@pytest.fixture
def folder(hub: HubServer, tmp_path: Path) -> Repository:
    """Return a repository o/folder with a model in shards."""
    made = tmp_path / "made"
    made.mkdir()
    write_shards(made, huggingface_parameters())
    (made / "config.json").write_text('{"model_type": "rwkv"}')
    files = {path.name: path.read_bytes() for path in sorted(made.iterdir())}
    hub.repositories["o/folder"] = Repository({**files, "README.md": b"readme", "training.bin": b"x"})
    return hub.repositories["o/folder"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:BlinkDL/rwkv7-g1", "hf:BlinkDL/rwkv7-g1"),
        ("BlinkDL/rwkv7-g1", "hf:BlinkDL/rwkv7-g1"),
        ("BlinkDL/rwkv7-g1/a.pth@v1", "hf:BlinkDL/rwkv7-g1/a.pth@v1"),
        ("https://huggingface.co/BlinkDL/rwkv7-g1/resolve/main/a.pth?download=true", "hf:BlinkDL/rwkv7-g1/a.pth"),
        ("https:/huggingface.co/BlinkDL/rwkv7-g1", "hf:BlinkDL/rwkv7-g1"),
        ("rwkv4-pile-169m", "hf:BlinkDL/rwkv-4-pile-169m/RWKV-4-Pile-169M-20220807-8023.pth"),
        ("g1 13.3B", "hf:BlinkDL/rwkv7-g1/rwkv7-g1k-13.3b-20260930-ctx25600.pth"),
        ("RWKV-6-World-1B6", "hf:BlinkDL/rwkv-6-world/RWKV-x060-World-1B6-v2.1-20240328-ctx4096.pth"),
    ],
)
def test_what_a_source_means(source: str, name: str) -> None:
    assert str(hub_name_of(source)) == name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://example.org/a.pth", "https://example.org/a.pth: expected a URL of the Hugging Face hub"),
        ("0.1b", "0.1b: expected the short name of one model, got a part of the names rwkv7-g1-0.1b, rwkv7-world-0.1b"),
        ("llama", "llama: not a known model; rwkv-cy models lists them, and any other is named as hf:OWNER/NAME"),
        ("rwkv7-g1-70b", "rwkv7-g1-70b: not a known model; did you mean rwkv7-g1-7.2b?"),
        ("", "'': not a known model; rwkv-cy models lists them"),
        ("hf:x", "hf:x: expected hf:owner/name"),
    ],
)
def test_what_a_source_does_not_mean(source: str, message: str) -> None:
    with pytest.raises(HubError, match=message):
        hub_name_of(source)


def test_a_folder_is_pulled_and_opened(hub: HubServer, folder: Repository) -> None:
    report = pull("hf:o/folder")
    names = {file.name for file in report.files}
    assert names == set(folder.files) - {"README.md", "training.bin"}
    assert report.kind == "a folder"
    assert rwkv_cy.inspect(report.path).architecture == "RWKV-4"
    before = len(hub.requests)
    assert rwkv_cy.inspect("hf:o/folder").format == "huggingface"
    assert len(hub.requests) == before
    assert rwkv_cy.inspect("hf:o/folder/model.safetensors.index.json").num_parameters
    next(report.path.glob("*2-of*")).unlink()  # a link: the file itself stays in the cache
    assert rwkv_cy.inspect("hf:o/folder").format == "huggingface"
    assert len(hub.gets("config.json")) == 1


def test_a_file_is_loaded_by_its_name(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    name = "hf:o/n/g1-0.1b.safetensors"
    with rwkv_cy.load(name) as model:
        logits, _ = model.forward([1, 2, 3])
    assert logits.shape == (256,)
    assert rwkv_cy.verify(name).ok
    assert rwkv_cy.convert(name, tmp_path / "m.h5").source_sha256
    assert rwkv_cy.verify(tmp_path / "m.h5", against=name).ok
    assert rwkv_cy.diff(name, tmp_path / "m.h5").same
    assert rwkv_cy.export(Path(name), tmp_path / "m.pth").size
    assert len(hub.gets("g1-0.1b.safetensors")) == 1


def test_models_are_chosen_by_patterns(hub: HubServer, repository: Repository) -> None:
    with pytest.raises(HubError, match="found 3: g1-0.1b.safetensors"):
        pull("hf:o/n")
    assert pull("hf:o/n", "*0.1b*").path.name == "g1-0.1b.safetensors"
    assert pull("hf:o/n", ["*x.pth", "none"]).path.name == "x.pth"
    report = pull("hf:o/n", "g1*", every=True)
    assert {path.name for path in report.path.iterdir()} == {*repository.files} - {"sub/x.pth"} | {"sub"}
    listed = list_repository("hf:o/n", "g1*")
    assert [(model.label, model.size) for model in listed.models] == [
        (name, len(repository.files[name]) + 2) for name in ("g1-0.1b.safetensors", "g1-0.4b.safetensors")
    ]
    assert listed.to_dict()["models"][0]["name"] == "hf:o/n/g1-0.1b.safetensors"


def test_files_are_put_into_a_folder(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    target = tmp_path / "new" / "models"
    report = pull("hf:o/n", "*0.1b*", into=target)
    assert report.path == target / "g1-0.1b.safetensors"
    assert sorted(path.name for path in target.iterdir()) == ["g1-0.1b.safetensors", "vocab.json"]
    assert not (tmp_path / "hub-home").exists()
    assert pull("hf:o/n", "*0.1b*", into=target).downloaded == 0
    (target / "g1-0.1b.safetensors").write_bytes(b"mine")
    with pytest.raises(StorageError, match="already exists, and is not g1-0.1b.safetensors of hf:o/n"):
        pull("hf:o/n", "*0.1b*", into=target)
    assert (target / "g1-0.1b.safetensors").read_bytes() == b"mine"
    pull("hf:o/n", "*0.1b*", into=target, overwrite=True)
    assert (target / "g1-0.1b.safetensors").read_bytes() == repository.files["g1-0.1b.safetensors"]


def test_a_file_is_written_at_a_path(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    report = pull("hf:o/n", "*0.4b*", to=tmp_path / "my.safetensors")
    assert report.path == tmp_path / "my.safetensors"
    assert not (tmp_path / "vocab.json").exists()
    assert rwkv_cy.inspect(report.path).num_parameters


def test_what_the_cache_has_is_copied(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    pull("hf:o/n", "*0.1b*")
    report = pull("hf:o/n", "*0.1b*", to=tmp_path / "copy.safetensors")
    assert report.downloaded == 0
    assert not report.path.is_symlink()
    assert report.path.read_bytes() == repository.files["g1-0.1b.safetensors"]
    assert len(hub.gets("g1-0.1b.safetensors")) == 1


def test_a_damaged_cache_is_not_copied(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    blob = pull("hf:o/n", "*0.1b*").path.resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(HubError, match=f"{blob}: expected a file with the hash .* the cache is damaged: remove this"):
        pull("hf:o/n", "*0.1b*", into=tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir() if "0.1b" in path.name] == []


def test_a_copy_does_not_follow_a_link_in_its_way(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    report = pull("hf:o/n", "*0.1b*")
    victim, copy = tmp_path / "victim", tmp_path / "copy.safetensors"
    victim.write_bytes(b"mine")
    digest = next(file.digest for file in report.files if file.name == "g1-0.1b.safetensors")
    copy.with_name(f".{copy.name}.{digest[:8]}.incomplete").symlink_to(victim)
    with pytest.raises(StorageError, match="cannot write it: Too many levels of symbolic links"):
        pull("hf:o/n", "*0.1b*", to=copy)
    assert victim.read_bytes() == b"mine"


def test_a_folder_is_written_at_a_path(hub: HubServer, folder: Repository, tmp_path: Path) -> None:
    report = pull("hf:o/folder", to=tmp_path / "model")
    assert report.path == tmp_path / "model"
    assert rwkv_cy.inspect(report.path).format == "huggingface"


def test_targets_that_contradict(hub: HubServer, repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to: expected either a path to write"):
        pull("hf:o/n", to=tmp_path / "a", into=tmp_path)
    with pytest.raises(ConfigError, match="to: expected one model to write there"):
        pull("hf:o/n", to=tmp_path / "a", every=True)
    with pytest.raises(StorageError, match="expected the name of a file, got a folder"):
        pull("hf:o/n", "*0.1b*", to=tmp_path)
    repository.files = {f"m-0000{part}-of-00002.gguf": b"x" * part for part in (1, 2)}
    with pytest.raises(ConfigError, match="to: expected a model in one file, got 2 parts"):
        pull("hf:o/n", to=tmp_path / "m.gguf")
    assert len(pull("hf:o/n").files) == 2


def test_without_the_library(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(rwkv_cy.MissingDependencyError, match=r"pip install 'rwkv-cy\[hub\]'"):
        pull("hf:o/n")
    with pytest.raises(rwkv_cy.MissingDependencyError, match="need the huggingface_hub library"):
        rwkv_cy.load("hf:o/n")
