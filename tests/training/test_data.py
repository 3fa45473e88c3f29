"""Training data: documents, the token file, and the sequences of each step."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, StorageError, TokenizerError
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training import data
from rwkv_cy.training.data import Batches, documents, mean_sequence, tokenize

TEXT = "In the beginning God created the heaven and the earth.\n\n  And the earth was without form.\n" * 40


class Ending(ByteTokenizer):
    """Plain bytes of which 0 ends a text."""

    end_of_text = 0


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def batches(path: Path, folder: Path, **options: object) -> Batches:
    given = {"sampling": "windows", "context": 16, "batch_size": 4, "seed": 1, "vocab_size": 256} | options
    return Batches(tokenize([path], ByteTokenizer(), folder), **given)  # type: ignore[arg-type]


def test_a_text_is_one_document_in_pieces(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_PIECE", 100)
    (document,) = ([*pieces] for pieces in documents([book]))
    assert b"".join(document).decode() == TEXT
    assert len(document) > 10
    assert not any(piece[:1].isspace() for piece in document[1:])


def test_each_line_of_jsonl_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two\\n\\u00e9", "id": 7}\n')
    found = tokenize([path], Ending(), tmp_path)
    assert bytes(found.tokens.astype(np.uint8)) == "one\0two\né\0".encode()
    assert found.ends.tolist() == [4, 11]
    assert found.nbytes == 9


@pytest.mark.parametrize("line", ["{", "[1]", '{"prompt": "x"}', '{"text": 3}', "[" * 100_000])
def test_a_line_that_is_not_a_document(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(FormatError, match=r"data.jsonl: line 2: expected an object like"):
        tokenize([path], ByteTokenizer(), tmp_path)
    assert not (tmp_path / "tokens.bin").exists()


def test_a_text_without_lines_is_cut_between_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_PIECE", 100)
    monkeypatch.setattr(data, "_LONGEST_PIECE", 300)
    path = tmp_path / "line.txt"
    for text in ("né" * 2000, "\n" * 5000, " x\n " * 900):
        path.write_text(text)
        (document,) = ([*pieces] for pieces in documents([path]))
        assert "".join(piece.decode() for piece in document) == text
        assert max(len(piece) for piece in document) <= 400
    path.write_bytes(b"\x80" * 5000)
    (document,) = ([*pieces] for pieces in documents([path]))
    assert b"".join(document) == b"\x80" * 5000
    assert len(document) > 10


def test_what_is_not_a_text_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, got in (
        (tmp_path, "a directory"),
        (Path("/dev/zero"), "a device or a pipe"),
        (tmp_path / "pipe", "a device or a pipe"),
        (Path("-"), "standard input"),
    ):
        with pytest.raises(StorageError, match=f"expected a (text )?file.*, got {got}.*; name a file"):
            tokenize([path], ByteTokenizer(), tmp_path)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.bin", "documents.json"])
def test_files_of_tokens_that_are_damaged_are_made_again(book: Path, tmp_path: Path, name: str) -> None:
    tokenize([book], ByteTokenizer(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for part in (b"", whole[:-1], whole + whole):
        (tmp_path / name).write_bytes(part)
        found = tokenize([book], ByteTokenizer(), tmp_path)
        assert bytes(found.tokens.astype(np.uint8)).decode() == TEXT
        assert found.ends.tolist() == [len(TEXT)]


def test_tokens_are_used_again_while_the_text_is_the_same(book: Path, tmp_path: Path) -> None:
    first = tokenize([book], ByteTokenizer(), tmp_path)
    assert bytes(first.tokens.astype(np.uint8)).decode() == TEXT
    made = (tmp_path / "tokens.bin").stat().st_ino
    assert tokenize([book], ByteTokenizer(), tmp_path).digest == first.digest
    assert (tmp_path / "tokens.bin").stat().st_ino == made
    book.write_text(TEXT + "x")
    assert tokenize([book], ByteTokenizer(), tmp_path).tokens.size == len(TEXT) + 1


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing.txt"):
        tokenize([tmp_path / "nothing.txt"], ByteTokenizer(), tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(FormatError, match=r"empty.txt: expected at least two tokens of text, got 0"):
        tokenize([tmp_path / "empty.txt"], ByteTokenizer(), tmp_path)


def test_windows_cover_an_epoch_once_in_another_order_each(book: Path, tmp_path: Path) -> None:
    found = batches(book, tmp_path)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * found.count, (epoch + 1) * found.count)
        sequences = [sequence for step in steps for sequence in batches(book, tmp_path, batch_size=1).batch(step)]
        assert {sequence.size for sequence in sequences} == {17}
        epochs.append([bytes(sequence.astype(np.uint8)) for sequence in sequences])
        joined = b"".join(sorted((text for text in epochs[-1]), key=TEXT.encode().find))
        assert len(joined) == 17 * found.count
    assert found.count == (len(TEXT) - 1) // 16
    assert epochs[0] != epochs[1]


def test_the_sequences_of_a_step_follow_from_the_seed(book: Path, tmp_path: Path) -> None:
    one, other = batches(book, tmp_path), batches(book, tmp_path)
    forwards = [np.stack(one.batch(step)) for step in range(300)]
    for step in reversed(range(300)):
        assert np.array_equal(np.stack(other.batch(step)), forwards[step])
    assert not np.array_equal(np.stack(batches(book, tmp_path, seed=2).batch(0)), forwards[0])


def test_whole_documents(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    texts = ["a", "bc", "defgh", "ijklmnopq"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = batches(path, tmp_path, sampling="documents", context=4, batch_size=1)
    pieces = sorted(bytes(found.batch(step)[0].astype(np.uint8)) for step in range(found.count))
    assert pieces == [b"bc", b"defgh", b"ijklm", b"mnopq"]


def test_too_little_text_and_foreign_tokens(book: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected at least 10001 tokens, the context and one, got 3600"):
        batches(book, tmp_path, context=10_000)
    path = tmp_path / "letters.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(FormatError, match="expected a document of at least two tokens, got 2 of one; give longer"):
        batches(path, tmp_path, sampling="documents")
    with pytest.raises(TokenizerError, match="expected token ids below 100, the vocabulary of the model, got 119"):
        batches(book, tmp_path, vocab_size=100)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), Ending()])
@pytest.mark.parametrize("context", [3, 7, 16])
def test_the_mean_of_the_sequences_of_documents(tmp_path: Path, tokenizer: ByteTokenizer, context: int) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f'{{"text": "{"a" * length}"}}\n' for length in (0, 1, 2, 5, 17, 33, 16, 8)))
    tokens = tokenize([path], tokenizer, tmp_path)
    found = Batches(tokens, sampling="documents", context=context, batch_size=1, seed=0, vocab_size=256)
    learned = [len(found.batch(step)[0]) - 1 for step in range(found.count)]
    assert mean_sequence([path], tokenizer, context) == pytest.approx(sum(learned) / len(learned))


def test_the_mean_is_that_of_the_first_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_PIECE", 20)
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "twelve bytes"}\n' * 2 + "which is not reached")
    assert mean_sequence([path], ByteTokenizer(), 16) == 11
    path.write_text('{"text": "a"}\n{"text": ""}\n')
    with pytest.raises(FormatError, match="data.jsonl: expected a document of at least two tokens, got none; give"):
        mean_sequence([path], ByteTokenizer(), 16)
