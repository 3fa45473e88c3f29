"""Two paths change places in one step, where the system can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rwkv_cy.files import exchange as module
from rwkv_cy.files.exchange import exchange


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in").write_text(name)
    return tmp_path / "a", tmp_path / "b"


def test_folders_change_places(folders: tuple[Path, Path]) -> None:
    first, second = folders
    if not exchange(first, second):
        pytest.skip("this file system cannot exchange two names")
    assert [(path / "in").read_text() for path in folders] == ["b", "a"]


def test_what_is_missing_is_an_error(folders: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        exchange(folders[0], folders[1].with_name("none"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM])
@pytest.mark.parametrize("function", [None, lambda *arguments: -1])
def test_without_the_operation_nothing_happens(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, function: object, number: int
) -> None:
    monkeypatch.setattr(module, "_renameat2", lambda: function)
    monkeypatch.setattr(module.ctypes, "get_errno", lambda: number)
    assert not exchange(*folders)
    assert [(path / "in").read_text() for path in folders] == ["a", "b"]


def test_other_errors_are_raised(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_renameat2", lambda: lambda *arguments: -1)
    monkeypatch.setattr(module.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        exchange(*folders)
