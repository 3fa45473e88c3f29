from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files import source_hash as source_file
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.mapped import MappedFile
from rwkv_cy.files.source_hash import SourceHash


def test_the_hash_is_that_of_all_files_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * 3_000_000)
    second.write_bytes(b"y")
    with SourceHash([FileIdentity.of(first), FileIdentity.of(second)]) as source_hash:
        assert source_hash.hexdigest() == hashlib.sha256(b"x" * 3_000_000 + b"y").hexdigest()
    assert source_hash.size == 3_000_001


def test_leaving_early_stops_the_thread(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, of hours of hashing
    with pytest.raises(KeyboardInterrupt), SourceHash([FileIdentity.of(path)]):
        raise KeyboardInterrupt
    assert "rwkv_cy-sha256" not in {thread.name for thread in threading.enumerate()}


def test_an_interrupt_while_the_thread_starts_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    started: list[threading.Thread] = []

    def interrupted(
        thread: threading.Thread, start: Callable[[threading.Thread], None] = threading.Thread.start
    ) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), SourceHash([FileIdentity.of(path)]):
        pass
    started[0].join(60)
    assert not started[0].is_alive()


@pytest.mark.parametrize("change", ["grow", "touch", "replace"])
def test_a_file_that_changes_is_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with SourceHash([FileIdentity.of(path)]) as source_hash:
        if change == "grow":
            path.write_bytes(b"longer than before")
        elif change == "touch":
            os.utime(path, ns=(1, 1))
        else:
            (tmp_path / "new").write_bytes(b"before")
            (tmp_path / "new").replace(path)
        with pytest.raises(StorageError, match="one that changed while it was read; wait until"):
            source_hash.hexdigest()


def test_a_file_that_vanishes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    source_hash = SourceHash([FileIdentity.of(path)])
    path.unlink()
    with source_hash, pytest.raises(StorageError, match="a: No such file or directory; the source could not be read"):
        source_hash.hexdigest()


def test_a_file_that_becomes_a_fifo_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    source_hash = SourceHash([FileIdentity.of(path)])
    path.unlink()
    os.mkfifo(path)
    with source_hash, pytest.raises(StorageError, match="one that changed while it was read"):
        source_hash.hexdigest()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory; give the path of a file that can be read"):
        FileIdentity.of(tmp_path / "none")


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_the_end_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1_000_000)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with SourceHash([FileIdentity.of(path)]) as source_hash:
        assert source_hash.hexdigest() == hashlib.sha256(b"x" * 1_000_000).hexdigest()
        assert source_hash.hexdigest() == hashlib.sha256(b"x" * 1_000_000).hexdigest()


def cannot_map(descriptor: int, size: int, offset: int) -> bytes:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


class Damaged(bytes):
    """A window of a file that could not be provided: zeros."""

    guarded = damaged = True

    def __new__(cls, descriptor: int, size: int, offset: int) -> Self:
        return super().__new__(cls, size)


class Unguarded(Damaged):
    """A window of a file of which nobody would know."""

    guarded = damaged = False


@pytest.mark.parametrize("mapped", [MappedFile, cannot_map, Damaged, Unguarded])
def test_windows_that_cannot_be_mapped_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: Callable[[int, int, int], object]
) -> None:
    data = bytes(range(256)) * 300
    path = tmp_path / "a"
    path.write_bytes(data)
    monkeypatch.setattr(source_file, "_WINDOW", 1 << 16)
    monkeypatch.setattr(source_file, "_CHUNK", 1000)
    monkeypatch.setattr(source_file, "MappedFile", mapped)
    with SourceHash([FileIdentity.of(path)]) as source_hash:
        assert source_hash.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("mapped", [MappedFile, cannot_map])
def test_a_file_that_is_truncated_while_it_is_hashed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: Callable[[int, int, int], object]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 300_000)

    def truncated(descriptor: int, size: int, offset: int) -> object:
        os.truncate(path, 5000)
        return mapped(descriptor, size, offset)

    monkeypatch.setattr(source_file, "MappedFile", truncated)
    with (
        SourceHash([FileIdentity.of(path)]) as source_hash,
        pytest.raises(StorageError, match="one that changed while it was read"),
    ):
        source_hash.hexdigest()


def no_memory(size: int) -> bytearray:
    raise MemoryError


def test_too_little_memory_is_no_wrong_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    monkeypatch.setattr(source_file, "MappedFile", cannot_map)
    monkeypatch.setattr(source_file, "bytearray", no_memory, raising=False)
    with SourceHash([FileIdentity.of(path)]) as source_hash, pytest.raises(MemoryError):
        source_hash.hexdigest()


def test_a_hash_can_run_ahead_of_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    with SourceHash.ahead(path) as source_hash:
        assert source_hash.files == (FileIdentity.of(path),)
        with source_hash as again:
            assert again is source_hash
            assert again.hexdigest() == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_of_a_folder_the_weights_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.safetensors", "a.safetensors", "config.json"):
        (tmp_path / name).write_text(name)
    with SourceHash.ahead(tmp_path) as source_hash:
        assert [file.path.name for file in source_hash.files] == ["a.safetensors", "b.safetensors"]
        assert source_hash.hexdigest() == hashlib.sha256(b"a.safetensorsb.safetensors").hexdigest()
    monkeypatch.setattr(source_file, "_MOST_FILES", 1)
    assert SourceHash.ahead(tmp_path).files == ()


def test_of_a_folder_with_a_fifo_nothing_is_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    assert SourceHash.ahead(tmp_path).files == ()


@pytest.mark.parametrize("kind", ["folder", "missing", "fifo", "loop", "no name"])
def test_ahead_of_what_is_no_file_nothing_is_hashed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "no name":
        path = Path("a\0b")
    with SourceHash.ahead(path) as source_hash:
        assert source_hash.files == ()


def test_stopping_ends_the_thread(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with SourceHash.ahead(path) as source_hash:
        source_hash.stop()
        assert "rwkv_cy-sha256" not in {thread.name for thread in threading.enumerate()}
