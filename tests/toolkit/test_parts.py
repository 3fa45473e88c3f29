from __future__ import annotations

import hashlib
import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import rwkv_cy
from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.files.temporary import name_beside
from rwkv_cy.toolkit.parts import join, shard

CONTENT = os.urandom(2500)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of 2,500 bytes."""
    (tmp_path / "m.h5").write_bytes(CONTENT)
    return tmp_path / "m.h5"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "parts").mkdir()
    return tmp_path / "parts"


def test_they_are_functions_of_the_package() -> None:
    assert rwkv_cy.shard is shard
    assert rwkv_cy.join is join


@pytest.mark.parametrize(("part_size", "count"), [(1000, 3), (1250, 2), (2499, 2), (7, 358)])
def test_a_file_is_cut_and_joined(source: Path, folder: Path, part_size: int, count: int) -> None:
    calls: list[tuple[int, int]] = []
    report = shard(source, folder, part_size=part_size, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (2500, 2500)
    assert len(report.parts) == count
    assert b"".join((folder / part.name).read_bytes() for part in report.parts) == CONTENT
    assert report.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert {path.name for path in folder.iterdir()} == {report.list.name, *(part.name for part in report.parts)}
    assert all(part.size <= part_size for part in report.parts)
    json.dumps(report.to_dict())
    joined = join(report.list, folder / "back")
    assert (folder / "back").read_bytes() == CONTENT
    assert (joined.size, joined.sha256, joined.parts) == (2500, report.sha256, count)
    json.dumps(joined.to_dict())
    calls.clear()
    join(folder / report.parts[1].name, folder / "again", progress=lambda done, total: calls.append((done, total)))
    assert (folder / "again").read_bytes() == CONTENT
    assert calls[-1] == (2500, 2500)


def test_a_folder_of_one_list(source: Path, folder: Path) -> None:
    with pytest.raises(
        FormatError, match=r"parts: expected one list NAME\.parts\.json in this folder, got none; name th"
    ):
        join(folder, folder / "back")
    shard(source, folder, part_size=1000)
    (folder / "notes.txt").write_text("not a part")
    assert join(folder, folder / "back").sha256 == hashlib.sha256(CONTENT).hexdigest()
    for number in range(7):
        (folder / f"other-{number}.parts.json").write_text("{}")
    listed = r"got m\.h5\.parts\.json, other-0\.parts\.json, .*other-3\.parts\.json and 3 more; name one of them"
    with pytest.raises(FormatError, match=listed):
        join(folder, folder / "again")


def test_a_folder_as_the_target(source: Path, folder: Path) -> None:
    report = shard(source, folder, part_size=1000)
    with pytest.raises(StorageError, match=rf"{folder}: expected the name of a new file, got a folder; name .*/m\.h5$"):
        join(report.list, folder)


def test_names(source: Path, folder: Path) -> None:
    report = shard(source, folder, part_size=1000)
    assert [part.name for part in report.parts] == [f"m.h5.0000{number}-of-00003" for number in (1, 2, 3)]
    assert report.list == folder / "m.h5.parts.json"


@pytest.mark.parametrize(
    ("part_size", "message"),
    [
        (2500, r"m\.h5: its 2\.50 kB fit into one part of 2\.50 kB"),
        (1 << 40, "fit into one part of 1.10 TB"),
        (0, "part_size: expected a positive number"),
        (-1, "part_size: expected a positive number"),
    ],
)
def test_useless_sizes(source: Path, folder: Path, part_size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shard(source, folder, part_size=part_size)


def test_other_names_are_no_lists(source: Path, folder: Path) -> None:
    with pytest.raises(FormatError, match=r"m\.h5: expected a list NAME\.parts\.json or a part"):
        join(source, folder / "back")


@pytest.mark.parametrize("name", [b"m\xff.h5", b"m\x1b.h5", "m\N{NO-BREAK SPACE}.h5".encode()])
def test_names_that_the_list_cannot_hold(source: Path, folder: Path, name: bytes) -> None:
    renamed = source.rename(source.with_name(os.fsdecode(name)))
    with pytest.raises(ConfigError, match="expected a name of characters that can be printed, .*; rename the file"):
        shard(renamed, folder, part_size=1000)
    assert not list(folder.iterdir())


def test_not_too_many_parts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(10_000))
    with pytest.raises(ConfigError, match="expected at most 9999 parts, got 10000 of 1 B"):
        shard(tmp_path / "long", folder, part_size=1)


@pytest.mark.parametrize("name", ["m.h5.00002-of-00003", "m.h5.parts.json"])
def test_nothing_is_replaced(source: Path, folder: Path, name: str) -> None:
    (folder / name).write_text("mine")
    with pytest.raises(StorageError, match=f"{name} already exists"):
        shard(source, folder, part_size=1000)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "mine"


def test_nothing_is_left_after_an_error(source: Path, folder: Path) -> None:
    def fail(done: int, total: int) -> None:
        if done > 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard(source, folder, part_size=1000, progress=fail)
    assert list(folder.iterdir()) == []
    report = shard(source, folder, part_size=1000)
    with pytest.raises(KeyboardInterrupt):
        join(report.list, folder / "back", progress=fail)
    assert not (folder / "back").exists()
    assert len(list(folder.iterdir())) == 4


def test_parts_of_a_process_that_was_killed_are_kept(source: Path, folder: Path) -> None:
    expected = shard(source, folder, part_size=1000)
    expected.list.unlink()
    third = folder / expected.parts[2].name
    third.unlink()
    abandoned = name_beside(folder / expected.parts[0].name)
    abandoned.hardlink_to(folder / expected.parts[0].name)
    first = (folder / expected.parts[0].name).stat().st_ino
    assert shard(source, folder, part_size=1000) == expected
    assert (folder / expected.parts[0].name).stat().st_ino == first
    assert not abandoned.exists()
    join(expected.list, folder / "back")
    assert (folder / "back").read_bytes() == CONTENT


def test_parts_of_another_file_are_not_lost(source: Path, folder: Path) -> None:
    second = folder / f"{source.name}.00002-of-00003"
    second.write_bytes(bytes(1000))
    with pytest.raises(StorageError, match="00002-of-00003 already exists"):
        shard(source, folder, part_size=1000)
    assert [path.name for path in folder.iterdir()] == [second.name]
    assert second.read_bytes() == bytes(1000)


def test_a_source_that_changes(source: Path, folder: Path) -> None:
    def change(done: int, total: int) -> None:
        if done == total:
            source.write_bytes(CONTENT[::-1] + b"x")

    with pytest.raises(StorageError, match="changed"):
        shard(source, folder, part_size=1000, progress=change)
    assert list(folder.iterdir()) == []


def test_too_little_space(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = namedtuple("status", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda path: status(2, 1024))
    with pytest.raises(StorageError, match=r"not enough disk space: need 2\.50 kB, 2\.05 kB free"):
        shard(source, folder, part_size=1000)


def test_folders_must_exist(source: Path, folder: Path) -> None:
    with pytest.raises(StorageError, match="no such folder; create it first"):
        shard(source, folder / "none", part_size=1000)
    report = shard(source, folder, part_size=1000)
    with pytest.raises(StorageError, match="no such folder; create it first"):
        join(report.list, folder / "none" / "m.h5")
    (folder / "back").write_text("mine")
    with pytest.raises(StorageError, match="already exists"):
        join(report.list, folder / "back")


def test_damaged_missing_and_short_parts(source: Path, folder: Path) -> None:
    report = shard(source, folder, part_size=1000)
    second, third = (folder / part.name for part in report.parts[1:])
    content = bytearray(second.read_bytes())
    content[500] ^= 1
    second.write_bytes(content)
    with pytest.raises(FormatError, match=f"{second.name}: wrong SHA-256; copy this part again"):
        join(report.list, folder / "back")
    second.write_bytes(content[:-1])
    third.unlink()
    with pytest.raises(FormatError, match=f"{second.name} has 999 bytes instead of 1000; {third.name} is missing"):
        join(report.list, folder / "back")
    assert not (folder / "back").exists()


GOOD = "0" * 64
NAME = "m.h5.00001-of-00002"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected the format rwkv-cy-parts, version 1"),
        ({"version": 2}, "expected the format"),
        ({"parts": None}, "from 2 to 9999 parts"),
        ({"parts": [{}]}, "from 2 to 9999 parts"),
        ({"parts": [1, 2]}, "parts with name, size and sha256"),
        ({"parts": [{"name": NAME, "size": 1}] * 2}, "parts with name, size and sha256"),
        ({"name_of_part": f"../{NAME}"}, "the name of a part beside the list"),
        ({"name_of_part": f"\x1b{NAME}"}, "the name of a part beside the list"),
        ({"name_of_part": "/etc/passwd"}, "the name of a part beside the list"),
        ({"name_of_part": 7}, "the name of a part beside the list"),
        ({"size_of_part": 0}, "the size of m.h5"),
        ({"size_of_part": True}, "the size of m.h5"),
        ({"size_of_part": 1 << 63}, "the size of m.h5"),
        ({"sha256_of_part": "x" * 64}, "the SHA-256 of m.h5"),
        ({"sha256": None}, "the SHA-256 of the file"),
        ({"size": 3}, "the size of all parts together"),
        ({"size": 2.0}, "the size of all parts together"),
        ({"size": None}, "the size of all parts together"),
        ({"sha256": GOOD}, "expected parts of a file with the SHA-256 0000"),
    ],
)
def test_a_list_is_not_trusted(folder: Path, changes: dict[str, Any], message: str) -> None:
    parts = []
    for number, content in ((1, b"a"), (2, b"b")):
        name = f"m.h5.0000{number}-of-00002"
        (folder / name).write_bytes(content)
        part = {"name": name, "size": 1, "sha256": hashlib.sha256(content).hexdigest()}
        parts.append(part)
    parts[0] |= {key.removesuffix("_of_part"): value for key, value in changes.items() if key.endswith("_of_part")}
    whole = {
        "format": "rwkv-cy-parts",
        "version": 1,
        "name": "m.h5",
        "size": 2,
        "sha256": hashlib.sha256(b"ab").hexdigest(),
        "parts": parts,
    }
    listed = folder / "m.h5.parts.json"
    listed.write_text(json.dumps(whole))
    join(listed, folder / "good") if not any(key.endswith("_of_part") for key in changes) else None
    listed.write_text(json.dumps(whole | {k: v for k, v in changes.items() if not k.endswith("_of_part")}))
    with pytest.raises(FormatError, match=message):
        join(listed, folder / "back")
    assert not (folder / "back").exists()


def test_a_list_is_not_too_large(folder: Path) -> None:
    listed = folder / "m.h5.parts.json"
    with listed.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(FormatError, match="expected at most 4194304 bytes"):
        join(listed, folder / "back")
    listed.write_text("[]")
    with pytest.raises(FormatError, match="expected a plain JSON object"):
        join(listed, folder / "back")
