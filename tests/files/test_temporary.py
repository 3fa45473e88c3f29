"""Temporary files: what a dead writer left is removed, what belongs to a living one is not."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest

from rwkv_cy.files import temporary
from rwkv_cy.files.temporary import create_beside, leftovers, name_beside, remove_abandoned
from storage.small import python

#: Leaves a temporary file of sys.argv[1] behind.
DYING = """
import os
from pathlib import Path
from rwkv_cy.files.replacement import Replacement
file = Replacement(Path(sys.argv[1]), overwrite=True)
file.write_at(0, b"half")
os._exit(9)
"""


def create(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


def test_what_a_process_that_died_left_is_removed_at_once(target: Path) -> None:
    assert subprocess.run(python(DYING, target), check=False).returncode == 9
    (left,) = leftovers(target)
    assert left.read_bytes() == b"half"
    remove_abandoned(target)
    assert leftovers(target) == []


def test_what_belongs_to_a_living_writer_stays(target: Path) -> None:
    path, descriptor = create_beside(target, create)
    os.utime(path, (0, 0))
    remove_abandoned(target)
    assert path.exists()
    os.close(descriptor)
    remove_abandoned(target)
    assert not path.exists()


def test_what_another_machine_left_is_removed_after_a_day(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_machine", lambda: "0000")
    path = name_beside(target)
    monkeypatch.setattr(temporary, "_machine", lambda: "1111")
    path.touch()
    remove_abandoned(target)
    assert path.exists()
    os.utime(path, (time.time() - 90_000,) * 2)
    remove_abandoned(target)
    assert not path.exists()


def test_without_locks_the_age_tells(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path, descriptor = create_beside(target, create)
    os.close(descriptor)
    remove_abandoned(target)
    assert path.exists()
    os.utime(path, (time.time() - 90_000,) * 2)
    remove_abandoned(target)
    assert not path.exists()


def test_a_file_that_is_removed_before_it_is_locked_is_created_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, created = fcntl.flock, []

    def lose_the_first(descriptor: int, operation: int) -> None:
        if len(created) == 1:
            created[0].unlink()
        flock(descriptor, operation)

    def note(path: Path) -> int:
        created.append(path)
        return create(path)

    monkeypatch.setattr(fcntl, "flock", lose_the_first)
    path, descriptor = create_beside(target, note)
    os.close(descriptor)
    assert created[1:] == [path]
    assert path.exists()


def test_a_name_that_is_taken_is_passed_by(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["ab12", "ab12", "cd34"])
    monkeypatch.setattr(temporary.secrets, "token_hex", lambda size: next(names))
    monkeypatch.setattr(temporary, "_machine", lambda: "0000")
    first, second = (create_beside(target, create) for _ in range(2))
    assert [path.name for path, _ in (first, second)] == [".model.h5.0000ab12.tmp", ".model.h5.0000cd34.tmp"]
    for _, descriptor in (first, second):
        os.close(descriptor)


def test_links_and_strangers_stay(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link under a temporary name is not followed."""
    monkeypatch.setattr(temporary, "_machine", lambda: "0000")
    stranger = target.with_name("precious")
    stranger.write_text("mine")
    target.with_name(".model.h5.00001234.tmp").symlink_to(stranger)
    others = [target.with_name(name) for name in (".model.h5.0000123.tmp", "model.h5.tmp", ".other.00001234.tmp")]
    for other in others:
        other.touch()
        os.utime(other, (0, 0))
    remove_abandoned(target)
    assert stranger.read_text() == "mine"
    assert all(other.exists() for other in others)


def test_without_an_id_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(temporary, "_BOOT_ID", tmp_path / "none")
    temporary._machine.cache_clear()
    tags = {temporary._machine()}
    assert temporary._machine() in tags
    temporary._machine.cache_clear()


def test_a_file_that_another_writer_is_about_to_remove_is_created_again(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its creation and its lock, another writer may take it for one that was left behind."""
    flock, created = fcntl.flock, []

    def lock_the_first_elsewhere(descriptor: int, operation: int) -> None:
        if len(created) == 1:
            raise BlockingIOError(errno.EWOULDBLOCK, "Resource temporarily unavailable")
        flock(descriptor, operation)

    def note(path: Path) -> int:
        created.append(path)
        return create(path)

    monkeypatch.setattr(fcntl, "flock", lock_the_first_elsewhere)
    path, descriptor = create_beside(target, note)
    os.close(descriptor)
    assert created[1:] == [path]


def test_a_folder_that_is_removed_before_it_is_opened_is_created_again(target: Path) -> None:
    created = []

    def lose_the_first(path: Path) -> int:
        created.append(path)
        path.mkdir()
        if len(created) == 1:
            remove_abandoned(target)  # as another writer does
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    path, descriptor = create_beside(target, lose_the_first)
    os.close(descriptor)
    assert created[1:] == [path]
    assert path.exists()


def test_a_folder_that_takes_no_new_files_is_an_error(target: Path) -> None:
    """As /proc is, where the system says that the new file is missing."""

    def refuse(path: Path) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    with pytest.raises(FileNotFoundError):
        create_beside(target, refuse)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        create_beside(tmp_path / "missing" / "model.h5", create)
