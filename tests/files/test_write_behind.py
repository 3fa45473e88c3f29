"""Large files are written out while they are being written; what the disk says is heard."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files import write_behind
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.write_out import begin_write_out


def _write(path: Path, megabytes: int) -> None:
    with Replacement(path, overwrite=False) as file:
        for index in range(megabytes):
            file.write_at(index << 20, bytes([index]) * (1 << 20))
        file.commit()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the calls that write out, in order, with a hint due after every 2 MiB."""
    seen: list[str] = []
    sync = os.fsync

    def noted_sync(descriptor: int) -> None:
        seen.append("sync")
        sync(descriptor)

    def noted_hint(descriptor: int) -> None:
        seen.append("hint")
        begin_write_out(descriptor)

    monkeypatch.setattr(write_behind, "_STEP", 2 << 20)
    monkeypatch.setattr(write_behind, "begin_write_out", noted_hint)
    monkeypatch.setattr(os, "fsync", noted_sync)
    return seen


def test_a_large_file_is_written_out_on_the_way_and_synced_at_the_end(tmp_path: Path, calls: list[str]) -> None:
    _write(tmp_path / "large", 5)
    assert calls == ["hint", "hint", "sync", "sync"]  # at the end the file, then its folder
    assert (tmp_path / "large").read_bytes() == b"".join(bytes([index]) * (1 << 20) for index in range(5))


def test_a_small_file_is_only_synced(tmp_path: Path, calls: list[str]) -> None:
    _write(tmp_path / "small", 1)
    assert calls == ["sync", "sync"]


def test_where_the_system_cannot_the_end_syncs(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(write_behind, "begin_write_out", refuse)
    _write(tmp_path / "large", 3)
    assert calls == ["sync", "sync"]
    assert (tmp_path / "large").stat().st_size == 3 << 20


def test_a_write_that_the_disk_refused_fails_the_file(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="cannot finish writing it: Input/output error; check the folder"):
        _write(tmp_path / "bad", 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's")
def test_the_hint_takes_a_file_and_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        begin_write_out(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        begin_write_out(-1)
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match="Illegal seek"):
            begin_write_out(writer)
    finally:
        os.close(reader)
        os.close(writer)
