"""Large files are written out while they are being written; what the disk says is heard."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.storage import write_behind
from rwkv_cy.storage.replacement import Replacement


def _write(path: Path, megabytes: int) -> None:
    with Replacement(path, overwrite=False) as file:
        for index in range(megabytes):
            file.write_at(index << 20, bytes([index]) * (1 << 20))
        file.commit()


def test_a_large_file_is_synced_on_the_way_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        threads.append(threading.current_thread().name)
        sync(descriptor)

    monkeypatch.setattr(write_behind, "_STEP", 2 << 20)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: threads.append(threading.current_thread().name) or sync(descriptor)
    )
    _write(tmp_path / "large", 5)
    assert "rwkv_cy-sync" in threads
    assert threads[-2:] == ["MainThread", "MainThread"]  # the file, then its folder
    assert (tmp_path / "large").read_bytes() == b"".join(bytes([index]) * (1 << 20) for index in range(5))


def test_a_small_file_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    _write(tmp_path / "small", 1)


def test_a_write_that_the_disk_refused_fails_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(write_behind, "_STEP", 1 << 20)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="cannot finish writing it: Input/output error; check the folder"):
        _write(tmp_path / "bad", 2)
    assert list(tmp_path.iterdir()) == []


def test_the_thread_has_ended_when_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        started.set()
        assert go_on.wait(10)
        os.fstat(descriptor)  # fails if it was closed before

    monkeypatch.setattr(write_behind, "_STEP", 1 << 20)
    monkeypatch.setattr(os, "fsync", slow)
    with Replacement(tmp_path / "given-up", overwrite=False) as file:
        file.write_at(0, bytes(1 << 20))
        assert started.wait(10)
        go_on.set()
    assert file._behind._error is None
    assert list(tmp_path.iterdir()) == []


def test_where_no_thread_can_be_had_the_end_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(write_behind, "_STEP", 1 << 20)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    _write(tmp_path / "large", 3)
    assert (tmp_path / "large").stat().st_size == 3 << 20
