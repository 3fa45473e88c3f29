"""Atomic replacement: a new file is on disk before it replaces the target."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files import replacement
from rwkv_cy.files.replacement import Replacement


def _write(path: Path, megabytes: int) -> None:
    with Replacement(path, overwrite=False) as file:
        for index in range(megabytes):
            file.write_at(index << 20, bytes([index]) * (1 << 20))
        file.commit()


def test_the_file_and_then_its_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "large").exists()))
    _write(tmp_path / "large", 3)
    assert synced == [False, True]
    assert (tmp_path / "large").read_bytes() == b"".join(bytes([index]) * (1 << 20) for index in range(3))


@pytest.mark.parametrize(("size", "times"), [(8 << 20, 1), (1 << 20, 0)])
def test_a_large_file_can_be_synced_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, times: int
) -> None:
    synced: list[int] = []
    with Replacement(tmp_path / "large", overwrite=False) as file:
        file.reserve(size)
        monkeypatch.setattr(os, "fsync", synced.append)
        file.sync_data()
        assert synced == [file.descriptor] * times


def test_a_failed_sync_before_the_end_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk failed")

    with Replacement(tmp_path / "large", overwrite=False) as file:
        file.reserve(8 << 20)
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="large: cannot finish writing it: the disk failed"):
            file.sync_data()


def test_a_large_file_is_written_out_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[tuple[int, int]] = []
    monkeypatch.setattr(replacement, "_WRITE_OUT_BYTES", 2 << 20)
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, size, advice: hints.append((start, size)))
    _write(tmp_path / "large", 5)
    assert hints == [(0, 2 << 20), (2 << 20, 2 << 20)]


def test_where_the_system_takes_no_hint_the_end_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(replacement, "_WRITE_OUT_BYTES", 1 << 20)
    monkeypatch.setattr(os, "posix_fadvise", refuse)
    _write(tmp_path / "large", 3)
    assert (tmp_path / "large").stat().st_size == 3 << 20


def test_a_write_that_the_disk_refused_fails_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="cannot finish writing it: Input/output error; check the folder"):
        _write(tmp_path / "bad", 3)
    assert list(tmp_path.iterdir()) == []
