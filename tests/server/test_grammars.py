"""``response_format``: answers that fit, errors of grammars."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from server.running import NAME, Client

QUESTION = [{"role": "user", "content": "Who created the heaven?"}]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


@pytest.fixture(autouse=True)
def engine() -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")


def test_every_answer_fits(client: Client) -> None:
    body = {"model": NAME, "messages": QUESTION, "max_tokens": 60, "n": 3, "seed": 1, "response_format": FORMAT}
    for choice in client("POST", "/v1/chat/completions", body).json["choices"]:
        assert choice["finish_reason"] == "stop"
        assert 0 <= json.loads(choice["message"]["content"])["age"] <= 99


def test_the_other_routes(client: Client) -> None:
    own = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
    body: dict[str, Any] = {"model": NAME, "input": "Who?", "max_output_tokens": 60, "text": {"format": own}}
    answer = client("POST", "/v1/responses", body).json
    assert set(json.loads(answer["output"][0]["content"][0]["text"])) == {"age"}
    rules = {"type": "grammar", "syntax": "regex", "grammar": "[ab]{4}"}
    body = {"model": NAME, "prompt": ["x", "y"], "n": 2, "response_format": rules}
    choices = client("POST", "/v1/completions", body).json["choices"]
    assert len(choices) == 4
    assert all(re.fullmatch("[ab]{4}", choice["text"]) for choice in choices)


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"type": "json_schema"}, "response_format", "invalid_grammar"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "response_format", "invalid_grammar"),
        ({"type": "json_schema", "json_schema": {"schema": {"enum": []}}}, "response_format", "invalid_grammar"),
        ({"type": "grammar", "grammar": "start: x"}, "response_format", "invalid_grammar"),
        ({"type": "grammar", "grammar": 3}, "response_format", "invalid_grammar"),
        ({"type": "grammar", "syntax": "abnf", "grammar": ""}, "response_format.syntax", None),
    ],
)
def test_a_wrong_grammar(client: Client, form: Any, param: str, code: str | None) -> None:
    body = {"model": NAME, "messages": QUESTION, "response_format": form}
    answer = client("POST", "/v1/chat/completions", body)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code)


def test_without_llguidance(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    body = {"model": NAME, "messages": QUESTION, "response_format": FORMAT}
    answer = client("POST", "/v1/chat/completions", body)
    assert answer.status == 501
    assert "rwkv-cy[grammar]" in answer.error["message"]
