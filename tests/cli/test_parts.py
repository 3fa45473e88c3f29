from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run


def test_a_model_is_cut_and_joined(run: Run, small: Path, tmp_path: Path) -> None:
    run("convert", small, tmp_path / "m.h5")
    (tmp_path / "parts").mkdir()
    result = run("shard", tmp_path / "m.h5", tmp_path / "parts", "--size", "100K")
    assert (result.code, result.err) == (0, "")
    assert "m.h5.00001-of-" in result.out
    result = run("join", tmp_path / "parts" / "m.h5.parts.json", tmp_path / "back.h5")
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith(" (as listed)\n")
    assert (tmp_path / "back.h5").read_bytes() == (tmp_path / "m.h5").read_bytes()
    assert run("join", tmp_path / "parts" / "m.h5.parts.json", tmp_path / "back.h5").code == 3
    first = next((tmp_path / "parts").glob("*00001-of*"))
    report = json.loads(run("join", first, tmp_path / "third.h5", "--json").out)
    assert report["size"] == (tmp_path / "m.h5").stat().st_size
    first.write_bytes(first.read_bytes()[::-1])
    assert run("join", first, tmp_path / "fourth.h5").code == 1


@pytest.mark.parametrize(
    ("text", "size"), [("100000", 100_000), ("90k", 90_000), ("90KiB", 92_160), ("1MB", 10**6), ("1mib", 1 << 20)]
)
def test_sizes(run: Run, tmp_path: Path, text: str, size: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size + 1)
    report = json.loads(run("shard", tmp_path / "file", tmp_path, "--size", text, "--json").out)
    assert [part["size"] for part in report["parts"]] == [size, 1]
    assert run("shard", tmp_path / "file", tmp_path, "--size", text, "--quiet").code == 3


def test_too_many_parts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10_000))
    result = run("shard", tmp_path / "file", tmp_path, "--size", "1")
    assert (result.code, result.err) == (
        1,
        "rwkv-cy: error: --size: expected at most 9999 parts, got 10000 of 1 B; choose larger ones\n",
    )


def test_a_target_that_exists(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3))
    assert run("shard", tmp_path / "file", tmp_path, "--size", "2").code == 0
    result = run("join", tmp_path / "file.parts.json", tmp_path / "file")
    assert result.code == 3
    assert result.err.endswith("file already exists; choose another name, or remove it\n")
    result = run("inspect", tmp_path / "file.parts.json")
    advice = f"join the parts first: rwkv-cy join {tmp_path}/file.parts.json {tmp_path}/file\n"
    assert result.err.endswith(f"got the list of the parts of a file; {advice}")


def test_a_part_and_a_folder_of_parts_say_how_to_join(run: Run, small: Path, tmp_path: Path) -> None:
    run("convert", small, tmp_path / "m.h5")
    folder = tmp_path / "the parts"
    folder.mkdir()
    run("shard", tmp_path / "m.h5", folder, "--size", "100K")
    advice = f"join the parts first: rwkv-cy join '{folder}/m.h5.parts.json' '{folder}/m.h5'\n"
    for path in (*sorted(folder.glob("m.h5.0*"))[:2], folder / "m.h5.parts.json", folder):
        result = run("inspect", path)
        assert (result.code, result.out) == (1, "")
        assert result.err.endswith(advice)
    (folder / "m.h5.parts.json").unlink()
    assert "rwkv-cy join" not in run("inspect", folder).err


@pytest.mark.parametrize("text", ["0", "x", "-1", "1.5G", "10i", "1PB", ""])
def test_sizes_that_are_none(run: Run, tmp_path: Path, text: str) -> None:
    result = run("shard", tmp_path / "file", tmp_path, f"--size={text}")
    assert result.code == 2
    assert "expected a size as 4000000000, 700M or 2GiB" in result.err
