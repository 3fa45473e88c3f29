from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files import folder_replacement
from rwkv_cy.files.exchange import exchange
from rwkv_cy.files.folder_replacement import FolderReplacement


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replace(target: Path, *, overwrite: bool = False, replaceable: bool = True, commit: bool = True) -> None:
    with FolderReplacement(target, overwrite=overwrite, replaceable=lambda path: replaceable) as folder:
        (folder.path / "new").write_text("new")
        if commit:
            folder.commit()


def test_a_new_folder_appears_when_it_is_committed(tmp_path: Path) -> None:
    replace(tmp_path / "t", commit=False)
    assert content(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
    replace(tmp_path / "t")
    assert content(tmp_path) == {"t/new": "new"}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    replace(tmp_path / "t")
    assert content(tmp_path) == {"t/new": "new"}


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    with pytest.raises(StorageError, match="t already exists; choose another name or pass --force \\(overwrite"):
        replace(tmp_path / "t")
    with pytest.raises(StorageError, match="t: expected a folder that holds a model and nothing else, got other files"):
        replace(tmp_path / "t", overwrite=True, replaceable=False)
    replace(tmp_path / "t", overwrite=True, commit=False)
    assert content(tmp_path) == {"t/old": "old"}
    replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == {"t/new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == {"new": "new"}


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_replacement, "exchange", lambda first, second: False)


def test_without_an_exchange_there_are_two_renames(tmp_path: Path, without_exchange: None) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == {"t/new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_an_older_folder_is_put_back(tmp_path: Path) -> None:
    """A writer was killed between two renames, and one before it after both."""
    for name, age in ((".t.01234567.old", 20), (".t.89abcdef.old", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text(name)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with pytest.raises(StorageError, match="t already exists"):
        replace(tmp_path / "t")
    assert content(tmp_path) == {"t/old": ".t.89abcdef.old"}


def test_an_exchange_that_fails_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(first: Path, second: Path) -> bool:
        raise OSError(5, "Input/output error")

    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    monkeypatch.setattr(folder_replacement, "exchange", fail)
    with pytest.raises(StorageError, match="t: cannot finish writing it: Input/output error; check the folder"):
        replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == {"t/old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("done", [False, True])
def test_an_interrupt_of_the_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool) -> None:
    def interrupted(first: Path, second: Path) -> bool:
        if done:
            exchange(first, second)
        raise KeyboardInterrupt

    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    monkeypatch.setattr(folder_replacement, "exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == ({"t/new": "new"} if done else {"t/old": "old"})
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_rename_that_fails_leaves_the_older_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_exchange: None
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    rename = Path.rename

    def fail(self: Path, target: Any) -> Any:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StorageError, match="t: cannot finish writing it: Input/output error; check the folder"):
        replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == {"t/old": "old"}


@pytest.mark.parametrize("step", range(3))
def test_an_interrupt_leaves_one_of_both_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_exchange: None, step: int
) -> None:
    """It comes before the first rename, between the two, or after the second."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "old").write_text("old")
    rename, calls = Path.rename, 0

    def interrupted(self: Path, target: Any) -> Any:
        nonlocal calls
        calls += 1
        if step == 0:
            raise KeyboardInterrupt
        result = rename(self, target)
        if calls == step:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == ({"t/new": "new"} if step == 2 else {"t/old": "old"})
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_meanwhile_is_not_lost(tmp_path: Path, overwrite: bool) -> None:
    with FolderReplacement(tmp_path / "t", overwrite=overwrite, replaceable=lambda path: False) as folder:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "thesis").write_text("old")
        with pytest.raises(StorageError, match="t(?: already exists|: expected a folder that holds a model)"):
            folder.commit()
    assert content(tmp_path) == {"t/thesis": "old"}


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_folder_of_another_writer_between_two_steps_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    if not exchanged:
        monkeypatch.setattr(folder_replacement, "exchange", lambda first, second: False)
    rename, renamed = Path.rename, []

    def lose_the_first_race(self: Path, target: Any) -> Any:
        if self.suffix == ".tmp":
            renamed.append(self)
            if len(renamed) == 1:
                (tmp_path / "t").mkdir()
                (tmp_path / "t" / "theirs").write_text("theirs")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", lose_the_first_race)
    if not exchanged:
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "old").write_text("old")
    replace(tmp_path / "t", overwrite=True)
    assert content(tmp_path) == {"t/new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("exchanged", [False, True])
def test_many_writers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool) -> None:
    if not exchanged:
        monkeypatch.setattr(folder_replacement, "exchange", lambda first, second: False)

    def write(number: int) -> None:
        for _ in range(25):
            replace(tmp_path / "t", overwrite=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert content(tmp_path) == {"t/new": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    for name, age in ((".t.0123abcd.tmp", 90_000), (".t.76543210.tmp", 10), (".other.0123abcd.tmp", 90_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("part")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    replace(tmp_path / "t")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123abcd.tmp", ".t.76543210.tmp", "t"]


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file: expected a folder to replace, got a file; choose another name"):
        replace(tmp_path / "file", overwrite=True)
    with pytest.raises(StorageError, match="t: cannot create it: No such file or directory; check the folder"):
        replace(tmp_path / "none" / "t")
    with pytest.raises(StorageError, match="expected a path, got an invalid file name"):
        replace(Path("a\0b"))


def test_an_older_folder_that_another_writer_puts_back_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tmp_path / f".t.{number:08x}.old" for number in range(2)]
    monkeypatch.setattr(folder_replacement, "leftovers", lambda target, suffix="tmp": names if suffix == "old" else [])
    replace(tmp_path / "t")
    assert content(tmp_path) == {"t/new": "new"}
