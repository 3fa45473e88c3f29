"""The two forms of the World vocabulary, valid and damaged."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import TokenizerError
from rwkv_cy.text.tokenizers.vocabulary import MAX_LINE, MAX_VOCABULARY_BYTES, WORLD_SIZE, pack, parse_text, unpack
from text.samples import line, world_tokens


def test_text_format(world_text: bytes) -> None:
    assert parse_text(world_text) == world_tokens()
    assert parse_text(world_text.replace(b"\r\n", b"\n")) == world_tokens()
    assert parse_text(world_text.removesuffix(b"\r\n")) == world_tokens()


@given(st.dictionaries(st.integers(1, WORLD_SIZE - 1), st.binary(min_size=1, max_size=8), max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_bytes_in_the_text_format(tokens: dict[int, bytes]) -> None:
    tokens = {i: token for token, i in {token: i for i, token in tokens.items()}.items()}
    parsed = parse_text("\n".join(line(i, token) for i, token in tokens.items()).encode()) if tokens else []
    assert {i: token for i, token in enumerate(parsed) if token} == tokens


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_text_in_the_text_format(text: str) -> None:
    assert parse_text(line(5, text.encode()).encode())[5] == text.encode()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "expected an id, a quoted str or bytes, and a length, got ''"),
        ("<!DOCTYPE html>", "expected an id, a quoted str or bytes, and a length"),
        ("7 'a'", "expected an id, a quoted"),
        ("7 a 1", "expected an id, a quoted"),
        ("'a' 1", "expected an id, a quoted"),
        ("-7 'a' 1", "expected an id, a quoted"),
        ("07 'a' 1", "expected an id, a quoted"),
        ("7  'a' 1", "expected an id, a quoted"),
        ("7 'a' 1 ", "expected an id, a quoted"),
        ("7 'a' +1", "expected an id, a quoted"),
        ("7 'a 1", "expected an id, a quoted"),
        ("7 'a' 'b' 2", "expected an id, a quoted"),
        ("7 'a''b' 2", "expected an id, a quoted"),
        ("7 'a'*9 9", "expected an id, a quoted"),
        ("7 f'a' 1", "expected an id, a quoted"),
        ("7 __import__('os').getcwd() 1", "expected an id, a quoted"),
        ("7 (((('a')))) 1", "expected an id, a quoted"),
        (r"7 '\q' 2", "expected an id, a quoted"),
        (r"7 '\x4' 1", "expected an id, a quoted"),
        (r"7 '\N{BULLET}' 3", "expected an id, a quoted"),
        (r"7 b'\u0041' 6", "expected an id, a quoted"),
        ("7 b'é' 2", "expected an id, a quoted"),
        ("7 'a\x00' 2", "expected an id, a quoted"),
        ("7 '" + "a" * 9_000 + "' 9000", "expected an id, a quoted"),
        ("\u0667 'a' 1", "expected an id, a quoted"),
        ("65536 'a' 1", "expected an id from 0 to 65535, got 65536"),
        ("999999999 'a' 1", "expected an id from 0 to 65535, got 999999999"),
        ("7 '' 0", "empty token"),
        ("7 b'' 0", "empty token"),
        ("7 'a' 2", "expected 2 bytes, as the line says, got 1"),
        ("7 'é' 1", "expected 1 bytes, as the line says, got 2"),
        (r"7 '\ud800' 3", "invalid Unicode in"),
        (r"7 '\U00110000' 4", "invalid Unicode in"),
        ("1 'a' 1", "duplicate id 1"),
        ("7 'x' 1", "duplicate of the token in line 1"),
        ("7 b'x' 1", "duplicate of the token in line 1"),
    ],
)
def test_malformed_lines_are_named(bad: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=f"my.txt: line 3: {message}"):
        parse_text(f"1 'x' 1\n2 'y' 1\n{bad}\n4 'z' 1\n".encode(), "my.txt")


def test_bytes_that_are_no_utf8() -> None:
    with pytest.raises(TokenizerError, match="vocabulary: line 2: expected UTF-8, got the byte 0xff"):
        parse_text(b"1 'x' 1\n2 '\xff' 1\n")


def test_a_file_that_is_too_long() -> None:
    with pytest.raises(TokenizerError, match=f"expected at most {MAX_VOCABULARY_BYTES} bytes"):
        parse_text(bytes(MAX_VOCABULARY_BYTES + 1))


def test_packed_form() -> None:
    data = pack(world_tokens())
    assert unpack(data) == world_tokens()
    assert len(data) == 12 + 2 * WORLD_SIZE + sum(map(len, world_tokens()))


def test_packed_form_by_its_description() -> None:
    """Read by what docs/tokenizers.md says, with nothing of the package."""
    data = pack(world_tokens())
    magic, count = struct.unpack_from("<8sI", data)
    assert (magic, count) == (b"RWKVTOK1", 65_536)
    place = 12 + 2 * count
    for expected, length in zip(world_tokens(), struct.unpack_from(f"<{count}H", data, 12), strict=True):
        assert data[place : place + length] == expected
        place += length
    assert place == len(data)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 11, 12, 13, 1_000, 12 + 2 * WORLD_SIZE - 1, 12 + 2 * WORLD_SIZE, -1])
def test_packed_form_cut(size: int) -> None:
    with pytest.raises(TokenizerError, match=r"stored: expected .*; convert the model again"):
        unpack(pack(world_tokens())[:size], "stored")


def test_packed_form_with_more_behind() -> None:
    with pytest.raises(TokenizerError, match=r"expected \d+ bytes, got \d+; convert"):
        unpack(pack(world_tokens()) + b"x")


@pytest.mark.parametrize("count", [0, 1, WORLD_SIZE - 1, WORLD_SIZE + 1, 0xFFFFFFFF])
def test_packed_form_with_another_count(count: int) -> None:
    data = pack(world_tokens())
    expected = r"\d+ bytes, got" if 0 < count < WORLD_SIZE else f"1 to 65536 ids, got {count}"
    with pytest.raises(TokenizerError, match=rf"expected {expected}.*; convert"):
        unpack(data[:8] + struct.pack("<I", count) + data[12:])


def test_packed_form_of_a_small_vocabulary() -> None:
    tokens = [b"", b"a", b"", b"bc"]
    assert unpack(pack(tokens)) == tokens


def test_a_vocabulary_ends_with_its_last_id() -> None:
    assert parse_text(b"1 'a' 1\n3 'b' 1") == [b"", b"a", b"", b"b"]
    assert parse_text(b"0 'a' 1") == [b"a"]
    assert len(parse_text(b"65528 'a' 1")) == 65_529
    assert len(parse_text(b"65529 'a' 1")) == WORLD_SIZE


def test_literals_alone(world_text: bytes) -> None:
    """As Hugging Face's vocab.txt: ids are places, and the first is the end of a text."""
    tokens = world_tokens()[: world_tokens().index(b"", 1)]
    lines = [repr(b"<s>"), *map(repr, tokens[1:])]
    assert parse_text("\n".join(lines).encode()) == tokens
    assert parse_text("\r\n".join([*lines, ""]).encode()) == tokens
    assert parse_text(b"b'<s>'\n'a'\nb'<s>'\n") == [b"", b"a", b"<s>"]  # the last is a token like any other
    assert parse_text(b"'a'\n\"'\"\n") == [b"a", b"'"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"b'a'\n1 'b' 1", r"v: line 2: expected a quoted str or bytes, got \"1 'b' 1\""),
        (b"b'a'\nb'b'\nb'a'", "v: line 3: duplicate of the token in line 1"),
        (b"b'a'\n''", "v: line 2: empty token"),
        (b"'a'\n'\\ud800'", "v: line 2: invalid Unicode"),
        (b"'a'\n" + b"'" + b"b" * MAX_LINE + b"'", "v: line 2: expected a quoted str or bytes, got \"'bbb"),
        (b"".join(b"'%d'\n" % i for i in range(WORLD_SIZE + 1)), "v: line 65537: expected at most 65536 tokens, got"),
    ],
)
def test_malformed_literals_are_named(data: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        parse_text(data, "v")


def test_packed_form_of_something_else() -> None:
    with pytest.raises(TokenizerError, match=r"expected a packed vocabulary, got b'\\x89HDF"):
        unpack(b"\x89HDF\r\n\x1a\n" + bytes(100))
