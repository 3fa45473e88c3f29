"""Folders that one process works on at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_cy.errors import StorageError
from rwkv_cy.files.locks import lock_folder


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def test_a_second_lock_is_an_error_until_the_first_is_given_back(tmp_path: Path) -> None:
    first, second = _open(tmp_path), _open(tmp_path)
    lock_folder(tmp_path, first, "folder")
    with pytest.raises(StorageError, match="another process works on; wait for it, or choose another folder"):
        lock_folder(tmp_path, second, "folder")
    os.close(first)
    lock_folder(tmp_path, second, "folder")
    os.close(second)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    descriptor = _open(tmp_path)
    monkeypatch.setattr(fcntl, "flock", _failing(code))
    lock_folder(tmp_path, descriptor, "folder")
    os.close(descriptor)


def test_another_error_of_the_system_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = _open(tmp_path)
    monkeypatch.setattr(fcntl, "flock", _failing(errno.EIO))
    with pytest.raises(StorageError, match=str(tmp_path)):
        lock_folder(tmp_path, descriptor, "folder")
    os.close(descriptor)


def _failing(code: int) -> Callable[[int, int], None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    return flock
