"""Strict JSON: what is accepted, and each reason to refuse untrusted input."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rwkv_cy.errors import FormatError
from rwkv_cy.files import strict_json
from rwkv_cy.files.strict_json import parse_object

HERE = Path("model")


def parse(raw: bytes, **options: int) -> dict[str, object]:
    return parse_object(HERE, "header", raw, **options)


def test_plain_objects() -> None:
    assert parse(b'{"a": [1, -2], "b": {"c": "\\u00e9\\"[[["}, "d": 0.5, "e": null}  ') == {
        "a": [1, -2],
        "b": {"c": 'é"[[['},
        "d": 0.5,
        "e": None,
    }


def test_brackets_in_strings_are_no_nesting() -> None:
    assert parse(b'{"a\\\\": "[[[[{{{{", "\\"[[": "]]"}', max_depth=1) == {"a\\": "[[[[{{{{", '"[[': "]]"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "got something else"),
        (b"{", "got something else"),
        (b'{"a": 1,}', "got something else"),
        (b'{"a": 1} x', "got something else"),
        (b'{"a": "\n"}', "got something else"),
        (b'{"a": 01}', "got something else"),
        (b"[1]", "got a JSON list"),
        (b'"text"', "got a JSON str"),
        (b"null", "got a JSON NoneType"),
        (b'{"a": "\xff"}', "got bytes that are not valid UTF-8"),
        (b"\xef\xbb\xbf{}", "got something else"),
        (b'{"a": 1, "b": 2, "a": 3}', "got the key 'a' twice"),
        (b'{"b": {"a": 1, "\\u0061": 2}}', "got the key 'a' twice"),
        (b'{"a": NaN}', "got NaN"),
        (b'{"a": -Infinity}', "got -Infinity"),
        (b'{"a": ' + b"9" * 21 + b"}", "got an integer of 21 digits"),
        (b'{"a": ' + b"9" * 1_000_000 + b"}", "got an integer of 1000000 digits"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "got more than 32 levels of nesting"),
        (b"[" * 200_000, "got more than 32 levels of nesting"),
        (b"[" * 3_000_001, "got more than 3000000 parts"),
        (b"]" * 3_000_001, "got more than 3000000 parts"),
        (b'{"a": [' + b"0," * 3_000_000 + b"0]}", "got more than 3000000 parts"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else "",
)
def test_refusals(raw: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=f"^model: header: expected a plain JSON object, {message}"):
        parse(raw)


def test_depth_does_not_depend_on_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(FormatError, match="levels of nesting"):
            parse(b'{"a":' * 300_000)
    finally:
        sys.setrecursionlimit(limit)
    monkeypatch.setattr(strict_json, "MAX_TOKENS", 3)
    with pytest.raises(FormatError, match="more than 3 parts"):
        parse(b'{"a": 1}')
