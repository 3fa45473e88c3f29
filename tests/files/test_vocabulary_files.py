"""Names of vocabulary files, the one in the ``rwkv`` package, and the last id of one."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from rwkv_cy.errors import MissingDependencyError
from rwkv_cy.files import vocabulary_files
from rwkv_cy.files.vocabulary_files import VOCABULARY_FILE, is_world_name, last_id, packaged_vocabulary, tokenizer_files


def fake_package(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    spec = ModuleSpec("rwkv", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(vocabulary_files, "find_spec", lambda name: spec)


def test_the_vocabulary_of_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(b"1 'a' 1\n")
    fake_package(monkeypatch, tmp_path)
    assert packaged_vocabulary() == tmp_path / VOCABULARY_FILE


def test_a_package_of_that_name_without_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_package(monkeypatch, tmp_path)
    with pytest.raises(MissingDependencyError, match=r"pip install rwkv"):
        packaged_vocabulary()


def test_no_such_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_files, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install rwkv, or name the file .* with --tokenizer FILE"):
        packaged_vocabulary()


def test_a_loaded_module_without_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rwkv", ModuleType("rwkv"))
    with pytest.raises(MissingDependencyError, match="rwkv package"):
        packaged_vocabulary()


def test_the_world_vocabulary_comes_first(tmp_path: Path) -> None:
    names = ["rwkv_vocab_v20230424.txt", "rwkv_vocab_v20230424.json", "tokenizer.json", "vocab.txt"]
    for name in (*reversed(names), "other.json"):
        (tmp_path / name).touch()
    assert [path.name for path in tokenizer_files(tmp_path)] == names
    assert [is_world_name(tmp_path / name) for name in names] == [True, True, False, False]
    assert tokenizer_files(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (b"1 'a' 1\n65529 '\\u6000' 3\n", 65529),
        (b"1 'a' 1\r\n7 b'\\xff' 1\r\n", 7),
        (b"x" * 5000 + b'\n12 "it\'s" 4', 12),
        (b"1 'a' 1\n", None),  # a single line
        (b"'a'\n'b'\n", None),
        (b'{"0": "a"}', None),
        (b"1 'a' 1\n2 'b' 1\nother\n", None),
        (b"", None),
    ],
)
def test_the_last_id_of_a_text(tmp_path: Path, data: bytes, last: int | None) -> None:
    path = tmp_path / "vocabulary"
    path.write_bytes(data)
    assert last_id(path) == last


def test_a_file_that_cannot_be_read_has_no_last_id(tmp_path: Path) -> None:
    assert last_id(tmp_path / "none") is None
    assert last_id(tmp_path) is None
