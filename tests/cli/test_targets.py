from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_safetensors
from cli.conftest import Run
from rwkv_cy.cli.targets import refuse_swapped
from rwkv_cy.toolkit.convert import convert


def older(path: Path) -> Path:
    """Make a file an hour older."""
    status = path.stat()
    os.utime(path, (status.st_atime - 3600, status.st_mtime - 3600))
    return path


@pytest.fixture
def model(small: Path, tmp_path: Path) -> Path:
    """Return a model file that is older than what is made from it."""
    convert(small, tmp_path / "m.h5")
    return older(tmp_path / "m.h5")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["convert", "MISSING", "FILE"], "SOURCE and TARGET"),
        (["quantize", "MISSING", "FILE"], "SOURCE and TARGET"),
        (["export", "MISSING", "FILE"], "SOURCE and TARGET"),
        (["merge", "MISSING", "adapter.pth", "FILE"], "BASE and TARGET"),
        (["shard", "MISSING", "FILE"], "FILE and FOLDER"),
        (["join", "MISSING", "FILE"], "PARTS and TARGET"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_missing_source_and_an_existing_target(
    run: Run, model: Path, tmp_path: Path, command: list[str], names: str, options: tuple[str, ...]
) -> None:
    options = () if command[0] in ("shard", "join") else options
    paths = {"MISSING": str(tmp_path / "new.pth"), "FILE": str(model)}
    before = model.read_bytes()
    result = run(*(paths.get(word, word) for word in command), *options)
    assert (result.code, result.out) == (3, "")
    assert result.err == (
        f"rwkv-cy: error: {tmp_path / 'new.pth'}: no such file, but {model} exists: are {names} swapped?\n"
    )
    assert model.read_bytes() == before


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_target_that_is_older_than_the_source(run: Run, model: Path, tmp_path: Path, command: str) -> None:
    """``quantize model.h5 q4.h5`` was meant; --force would quantize twice, and replace the original."""
    assert run("quantize", model, tmp_path / "q4.h5", "--dtype", "q4").code == 0
    result = run(command, tmp_path / "q4.h5", model)
    assert result.code == 3
    assert result.err.endswith(
        f"{model} already exists, and {tmp_path / 'q4.h5'} is newer: are SOURCE and TARGET swapped? "
        "If not, choose another name or pass --force\n"
    )
    result = run(command, model, tmp_path / "q4.h5")
    assert result.err.endswith(f"{tmp_path / 'q4.h5'} already exists; choose another name or pass --force\n")


def test_exports(run: Run, model: Path, small: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.pth"
    assert run("export", model, target).code == 0
    assert run("export", model, target).err.endswith("m.pth already exists; choose another name or pass --force\n")
    assert run("export", model, target, "--force").code == 0
    result = run("export", target, older(small))
    assert f"{small} already exists, and {target} is newer: are SOURCE and TARGET swapped? If not, " in result.err
    result = run("export", target, model)
    assert "its name is that of a model file, which convert writes: are SOURCE and TARGET swapped?" in result.err
    assert run("export", target, target, "--force").code == 3


def test_force_is_not_advised_where_it_does_not_help(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    result = run("convert", small, tmp_path / "notes")
    assert (result.code, "--force" in result.err) == (3, False)
    assert "notes is not a model file; choose another name" in result.err


def test_a_name_of_the_hub_is_not_a_missing_source(model: Path) -> None:
    refuse_swapped(Path("hf:owner/name"), model)


def test_base_and_adapter_swapped(run: Run, small: Path, tmp_path: Path) -> None:
    adapter = write_safetensors(tmp_path / "lora.pth", {"blocks.0.att.key.lora_A": np.zeros((4, 32), "f4")})
    result = run("merge", adapter, small, tmp_path / "m.h5")
    assert result.code == 1
    assert result.err.endswith(
        f"{adapter}: expected a model, got a LoRA adapter, and {small} is a model: are base and adapter swapped?\n"
    )
    result = run("merge", adapter, adapter, tmp_path / "m.h5")
    assert (result.code, "are base and adapter swapped" in result.err) == (1, False)


def test_the_same_file_twice(run: Run, model: Path) -> None:
    assert "is the source itself; name another file" in run("convert", model, model, "--force").err
    assert "is the source itself; name another file" in run("quantize", model, model).err


def test_a_path_that_is_not_there_has_a_similar_one(run: Run, model: Path, tmp_path: Path) -> None:
    for name in ("m", "M.h5", "m.pth"):
        result = run("inspect", tmp_path / name)
        assert (result.code, f"No such file or directory; did you mean {model}?" in result.err) == (3, True), name


def test_shards_in_a_folder(run: Run, tmp_path: Path, small: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(small, folder / "weights.safetensors")
    result = run("inspect", folder)
    assert f"name the file that holds the model, as {folder / 'weights.safetensors'}" in result.err


def test_a_typo_in_the_source_is_not_a_swap(run: Run, model: Path, small: Path, tmp_path: Path) -> None:
    result = run("convert", small.with_name("smal.safetensors"), model, "--force")
    assert f"smal.safetensors: cannot open it: No such file or directory; did you mean {small}?" in result.err
    result = run("convert", model.with_suffix(".pth"), model)
    assert (
        f"{model.with_suffix('.pth')}: no such file, but {model} exists: are SOURCE and TARGET swapped?" in result.err
    )
    result = run("shard", tmp_path / "none", tmp_path)
    assert (result.code, "FILE and FOLDER" in result.err) == (3, False)


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "MODEL", "FOLDER"),
        ("quantize", "MODEL", "FOLDER"),
        ("merge", "MODEL", "MODEL", "FOLDER"),
        ("join", "MODEL", "FOLDER"),
        ("inspect", "MODEL", "--html", "FOLDER"),
        ("embed", "MODEL", "x", "--output", "FOLDER"),
        ("generate", "MODEL", "x", "--save-state", "FOLDER"),
        ("train", "MODEL", "FOLDER", "--new", "rwkv7", "--d-model", "64", "--num-layers", "1", "--steps", "1"),
        ("tune", "MODEL", "MODEL", "--method", "lora", "--output", "FOLDER", "--steps", "1"),
    ],
    ids=lambda words: words[0],
)
def test_a_target_that_ends_in_a_slash_is_a_folder(
    run: Run, model: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Path drops the slash: a file of the folder's name was written."""
    paths = {"MODEL": str(model), "FOLDER": f"{tmp_path / 'new'}/"}
    result = run(*(paths.get(word, word) for word in words))
    assert result.code == 2
    assert f"expected the name of a file, got that of a folder, '{tmp_path / 'new'}/'; name a file in it" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["convert", "export", "shard", "join"])
def test_a_file_in_place_of_the_folder(run: Run, model: Path, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "text.txt"
    folder.touch()
    source, target = model, folder / "new.h5"
    if command == "export":
        target = folder / "new.pth"
    elif command == "shard":
        target = folder
    elif command == "join":
        (tmp_path / "parts").mkdir()
        assert run("shard", model, tmp_path / "parts", "--size", "10k").code == 0
        source = tmp_path / "parts"
    result = run(command, source, target)
    assert (result.code, result.err) == (
        3,
        f"rwkv-cy: error: {folder} is a file, not a folder; choose another folder\n",
    )


def test_a_link_to_nothing(run: Run, model: Path, tmp_path: Path) -> None:
    """As a source, it was said to be similar to itself."""
    link = tmp_path / "link.h5"
    link.symlink_to("gone.h5")
    result = run("inspect", link)
    assert result.code == 3
    assert result.err.endswith("it is a link to gone.h5, which does not exist: make the link anew\n")
    result = run("convert", model, link)
    assert result.err == (
        f"rwkv-cy: error: {link} already exists, as a link to a file that does not; choose another name or pass "
        "--force\n"
    )
    assert result.code == 3
    assert run("convert", model, link, "--force").code == 0
    assert link.is_file()
