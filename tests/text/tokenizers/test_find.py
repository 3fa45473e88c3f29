"""Finding the tokenizer for a kind, a name or a file; and the bytes tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_cy.errors import MissingDependencyError, StorageError, TokenError, TokenizerError
from rwkv_cy.files import vocabulary_files
from rwkv_cy.files.vocabulary_files import VOCABULARY_FILE, tokenizer_files
from rwkv_cy.text.tokenizers import ByteTokenizer, find_tokenizer, load_tokenizer
from rwkv_cy.text.tokenizers import find as module
from rwkv_cy.text.tokenizers.huggingface import MAX_JSON_BYTES
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from rwkv_cy.units import byte_size
from text.samples import byte_level_json

BYTES = ByteTokenizer()


@given(st.binary(max_size=30))
def test_bytes_there_and_back(data: bytes) -> None:
    assert BYTES.decode_bytes(BYTES.encode_bytes(data)) == data
    assert BYTES.encode_bytes(data) == list(data)


def test_tokenizers_say_what_they_are() -> None:
    assert repr(BYTES) == "ByteTokenizer()"
    assert repr(find_tokenizer("bytes")) == repr(BYTES)


def test_text_of_bytes() -> None:
    assert BYTES.encode("é") == [0xC3, 0xA9]
    assert BYTES.decode([0xC3, 0xA9, 0xFF]) == "é\ufffd"
    stream = BYTES.stream()
    assert [stream.push(0xC3), stream.push(0xA9), stream.finish()] == ["", "é", ""]
    assert (BYTES.kind, BYTES.vocab_size, BYTES.end_of_text) == ("bytes", 256, None)


@pytest.mark.parametrize("token", [-1, 256, True, 1.0])
def test_bytes_that_are_none(token: Any) -> None:
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an"):
        BYTES.decode_bytes([token])


def test_loading_each_kind(world: WorldTokenizer) -> None:
    for tokenizer in (BYTES, world):
        again = load_tokenizer(tokenizer.kind, tokenizer.to_bytes())
        assert again.kind == tokenizer.kind
        assert again.encode("In the 人") == tokenizer.encode("In the 人")


def test_loading_a_tokenizer_json() -> None:
    pytest.importorskip("tokenizers")
    assert load_tokenizer("huggingface", byte_level_json()).kind == "huggingface"


def test_loading_a_file_that_is_not_a_tokenizer() -> None:
    with pytest.raises(TokenizerError, match=r"model.h5: expected no data for the bytes tokenizer, got 2 bytes"):
        load_tokenizer("bytes", b"xx", "model.h5")
    with pytest.raises(TokenizerError, match=r"model.h5: expected a packed vocabulary, got b''"):
        load_tokenizer("world", b"", "model.h5")
    with pytest.raises(
        TokenizerError, match='tokenizer: expected the kind "bytes", "world" or "huggingface", got \'bpe\''
    ):
        load_tokenizer("bpe", b"")


def test_found_by_content_not_by_name(tmp_path: Path, world: WorldTokenizer, world_text: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    for data in (world_text, world.to_bytes()):
        path.write_bytes(data)
        assert find_tokenizer(str(path)).to_bytes() == world.to_bytes()
    assert isinstance(find_tokenizer("bytes"), ByteTokenizer)


@pytest.mark.parametrize("before", [b"", b"\n  ", b"\xef\xbb\xbf"])
def test_a_tokenizer_json_by_its_content(tmp_path: Path, before: bytes) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / VOCABULARY_FILE
    path.write_bytes(before + byte_level_json())
    assert find_tokenizer(path).kind == "huggingface"


def test_world_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world_text: bytes) -> None:
    path = tmp_path / VOCABULARY_FILE
    path.write_bytes(world_text)
    monkeypatch.setattr(module, "packaged_vocabulary", lambda: path)
    assert find_tokenizer("world").kind == "world"


def test_world_by_name_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_files, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install rwkv"):
        find_tokenizer("world")


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>\n", b"\x89HDF\r\n\x1a\n", b"version https://git-lfs\n", b"[]"])
def test_files_of_something_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / VOCABULARY_FILE
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=f"{VOCABULARY_FILE}: (line 1: )?expected"):
        find_tokenizer(path)


def test_an_empty_name() -> None:
    with pytest.raises(TokenizerError, match=r'tokenizer: expected "bytes", "world" or the path .*, got an empty text'):
        find_tokenizer("")


@pytest.mark.parametrize("spec", ["no/such/file", "a\0b", "x" * 5_000])
def test_files_that_are_not_there(spec: str) -> None:
    with pytest.raises(StorageError, match=r'cannot be read .*; expected "bytes", "world" or the path of a vocabulary'):
        find_tokenizer(spec)


def test_folders_fifos_and_loops(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="fifo: expected a regular file; name a vocabulary file"):
        find_tokenizer(tmp_path / "fifo")
    with pytest.raises(StorageError, match="loop: cannot be read"):
        find_tokenizer(tmp_path / "loop")
    with pytest.raises(TokenizerError, match=r"expected a folder with rwkv_vocab_v20230424.txt, tokenizer.json, .* or"):
        find_tokenizer(tmp_path)


def test_a_text_that_begins_as_a_list_does(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[project]\nname = 'x'\n")
    with pytest.raises(TokenizerError, match=r"line 1: expected an id, a quoted str or bytes, .* got '\[project\]'"):
        find_tokenizer(path)


def test_a_folder_with_a_vocabulary(tmp_path: Path, world_text: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"'a'\n'b'\n")
    (tmp_path / "vocab.json").mkdir()
    assert find_tokenizer(tmp_path).vocab_size == 2
    for name in ("rwkv_vocab_v20260603.json", "rwkv_vocab_v20230424.txt", "rwkv_vocab.txt", "tokenizer.json"):
        (tmp_path / name).write_bytes(world_text)
    names = ["rwkv_vocab_v20230424.txt", "rwkv_vocab_v20260603.json", "tokenizer.json", "vocab.txt"]
    assert [path.name for path in tokenizer_files(tmp_path)] == names
    assert find_tokenizer(str(tmp_path)).kind == "world"
    assert tokenizer_files(tmp_path / "missing") == tokenizer_files(Path("a\0b")) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "vocab.json"
    mark = "\ufeff" if encoding.endswith("e") else ""
    path.write_text(mark + '{"0": "\\n", "1": "\u4eba"}', encoding=encoding)
    assert find_tokenizer(path).encode("\u4eba\n") == [1, 0]
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(TokenizerError, match=r"vocab.json: expected UTF-16, as its first bytes say, got"):
        find_tokenizer(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'{"model_type": "rwkv", "hidden_size": 8}',
            "expected a tokenizer, got a JSON object of 'model_type', 'hidden_size'; a tokenizer.json has",
        ),
        (b"{}", "expected a tokenizer, got a JSON object of nothing; a tokenizer.json has a model in it"),
        (b'["a", "b"]', "expected a tokenizer, got a JSON list; a tokenizer.json has a model in it"),
        (
            b'{"model": {"type": "RwkvTrie", "vocab": {}}}',
            "expected a model of type BPE, .*, got 'RwkvTrie', which the",
        ),
    ],
)
def test_json_of_another_kind(tmp_path: Path, data: bytes, message: str) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=f"file.json: {message}"):
        find_tokenizer(path)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(
        TokenizerError, match=f"long: expected a tokenizer.json or .* of at most {byte_size(MAX_JSON_BYTES)}"
    ):
        find_tokenizer(path)


def test_a_name_with_a_typo(tmp_path: Path) -> None:
    (tmp_path / "20B_tokenizer.json").touch()
    for name in ("20B_tokeniser.json", "20b_tokenizer"):
        with pytest.raises(StorageError, match=r"cannot be read \(No such .*\); did you mean .*20B_tokenizer.json\?"):
            find_tokenizer(tmp_path / name)
    with pytest.raises(StorageError, match=r"wrld: cannot be read \(No such .*\); did you mean world\?"):
        find_tokenizer("wrld")
