"""Vocabularies of GGUF files: escapes, types of tokens, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.make_gguf import Gguf, Tensor, value, world_like
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.gguf import vocabulary
from rwkv_cy.formats.gguf.vocabulary import escaped, is_gguf, read_vocabulary, unescaped

WORDS = [bytes([byte]) for byte in range(256)] + [
    b"the",
    " \N{SNOWMAN}".encode(),
    b"\\n",
    b"it's",
    b'"q"',
    b"'\"",
    b"\xff\xfe",
]


def write(path: Path, file: Gguf) -> Path:
    path.write_bytes(file.to_bytes())
    return path


def test_the_bytes_of_each_token(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", Gguf(world_like(WORDS, 300)))
    assert is_gguf(path)
    assert read_vocabulary(path) == [b"", *WORDS, *[b""] * (299 - len(WORDS))]


def test_without_types_token_0_has_no_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", Gguf(world_like(WORDS, 264)[:2]))
    assert read_vocabulary(path) == [b"", *WORDS]


def test_tensors_need_not_be_readable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", Gguf(world_like(WORDS, 264), [Tensor("a", (256,), bytes(74), 17)]))
    assert len(read_vocabulary(path)) == 264


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (rb"a", b"a"),
        (rb"\n\r\t", b"\n\r\t"),
        (rb"\x00\xfF", b"\x00\xff"),
        (rb"\\n", rb"\n"),
        (rb"\\\\x41", rb"\\x41"),
        (rb"\'\"", b"'\""),
        (rb"\z", b"z"),
        ("é".encode(), "é".encode()),
        (b"\\\n", b"\n"),
    ],
)
def test_escapes(text: bytes, token: bytes) -> None:
    assert unescaped(text) == token


def test_what_is_escaped_reads_as_it_was() -> None:
    for token in [*WORDS, bytes(range(256)), bytes(range(255, -1, -1))]:
        assert unescaped(escaped(token)) == token
        assert escaped(token).isascii()


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        (
            {"tokenizer.ggml.model": None},
            FormatError,
            "tokenizer.ggml.model: expected the kind of the vocabulary, got none",
        ),
        (
            {"tokenizer.ggml.model": value("string", "gpt2")},
            UnsupportedError,
            "expected a vocabulary of kind 'rwkv', got 'gpt2'",
        ),
        ({"tokenizer.ggml.tokens": None}, FormatError, "tokenizer.ggml.tokens: expected an array of at most"),
        ({"tokenizer.ggml.tokens": value("uint8[]", b"abc")}, FormatError, "expected an array of strings"),
        (
            {"tokenizer.ggml.token_type": value("int32[]", [1])},
            FormatError,
            "expected 3 integers, one for each token, got 1",
        ),
        ({"tokenizer.ggml.token_type": value("string[]", ["1"] * 3)}, FormatError, "expected 3 integers"),
    ],
)
def test_what_is_refused(tmp_path: Path, changed: dict[str, bytes | None], kind: type[Exception], message: str) -> None:
    values = dict(world_like([b"a"], 3)) | changed
    path = write(tmp_path / "a.gguf", Gguf([(key, raw) for key, raw in values.items() if raw is not None]))
    with pytest.raises(kind) as error:
        read_vocabulary(path)
    assert message in str(error.value)


def test_too_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "MAX_TOKENS", 2)
    path = write(tmp_path / "a.gguf", Gguf(world_like([b"a"], 3)))
    with pytest.raises(FormatError, match="expected an array of at most 2 elements, got 3 elements"):
        read_vocabulary(path)
