"""``generate`` with ``--json-schema``, ``--regex`` and ``--grammar``."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from cli.conftest import Run

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "maximum": 120, "minimum": 0}, "good": {"type": "boolean"}},
    "required": ["age", "good"],
    "additionalProperties": False,
}


def test_the_command(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")
    schema, rules = tmp_path / "schema.json", tmp_path / "rules"
    schema.write_text(json.dumps(SCHEMA))
    result = run("generate", "--prompt", "x", "--json-schema", schema, "--seed", "1")
    assert (result.code, result.err) == (0, "")
    value = json.loads(result.out[1:])
    assert set(value) == {"age", "good"}
    assert 0 <= value["age"] <= 120
    assert re.fullmatch("x[ab]{3}", run("generate", "--prompt", "x", "--regex", "[ab]{3}").out)
    rules.write_text('start: "yes" | "no"')
    assert run("generate", "--prompt", "x", "--grammar", rules).out in ("xyes", "xno")
    rules.write_text('root ::= "yes" | "no"')
    assert run("generate", "--prompt", "x", "--grammar", rules).out in ("xyes", "xno")
    rules.write_bytes(b"\xff")
    empty = tmp_path / "empty"
    empty.touch()
    for arguments, code, message in (
        (["--regex", "["], 1, "error: --regex: "),
        (["--grammar", empty], 1, f"error: {empty}: lark: "),
        (["--json-schema", empty], 1, f"error: {empty}: json_schema: expected json"),
        (["--json-schema", tmp_path], 3, f"{tmp_path}: cannot read it: is a directory; name a file in it"),
        (["--grammar", rules], 1, "expected UTF-8, got another byte at 0"),
        (["--json-schema", tmp_path / "none"], 3, "no such file"),
        (["--regex", "a", "--beams", "2"], 2, "--regex is for one text, not for a search"),
        (["--regex", "a", "--grammar", rules], 2, "not allowed with"),
    ):
        result = run("generate", "--prompt", "x", *arguments)
        assert (result.code, message in result.err.lower() or message in result.err) == (code, True), result.err


def test_a_schema_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{bad")))
    result = run("generate", "--prompt", "x", "--json-schema", "-")
    assert (result.code, "error: standard input: json_schema: expected json" in result.err.lower()) == (1, True)
