"""Calls of tools fit their schemas; ``parallel_tool_calls``; the form of Anthropic's messages."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from server.running import Client

pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rom", "Ur"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
QUESTION = [{"role": "user", "content": "Weather in Ur?"}]
#: What the model tends to write: arguments that do not fit, more text, another call.
WRONG = ' {"town": "Ur", "day": "mon"}}\n```\n\nUser:'
BEGUN = '>\nLet me see.\n```json\n{"name": "weather", "arguments":'


def tools(path: str, schema: Any = CITY, strict: bool = False) -> list[dict[str, Any]]:
    function = {"name": "weather", "description": "Tells the weather", "strict": strict}
    if path == CHAT:
        return [{"type": "function", "function": {**function, "parameters": schema}}]
    if path == RESPONSES:
        return [{"type": "function", **function, "parameters": schema}]
    return [{**function, "input_schema": schema}]


def choices_of(path: str, choice: str) -> Any:
    """Return a tool choice in the words of an API."""
    if path == MESSAGES:
        return {"required": {"type": "any"}, "named": {"type": "tool", "name": "weather"}}.get(choice, {"type": choice})
    named: dict[str, Any] = {"type": "function", "name": "weather"}
    if path == CHAT:
        named = {"type": "function", "function": {"name": "weather"}}
    return named if choice == "named" else choice


def asked(path: str, **fields: Any) -> dict[str, Any]:
    body = {"max_tokens": 300, "max_output_tokens": 300, "messages": QUESTION, "input": "Weather in Ur?"}
    return {**body, "tools": tools(path), **fields}


def calls(path: str, answer: Any) -> list[tuple[str, Any]]:
    """Return names and arguments of the calls of an answer."""
    if path == CHAT:
        found = [call["function"] for call in answer["choices"][0]["message"].get("tool_calls", ())]
        return [(call["name"], json.loads(call["arguments"])) for call in found]
    if path == RESPONSES:
        items = [item for item in answer["output"] if item["type"] == "function_call"]
        return [(item["name"], json.loads(item["arguments"])) for item in items]
    return [(block["name"], block["input"]) for block in answer["content"] if block["type"] == "tool_use"]


def fits(arguments: Any) -> bool:
    return set(arguments) == {"city", "days"} and arguments["city"] in ("Rom", "Ur") and 1 <= arguments["days"] <= 7


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_call_that_must_be_made(g1: Client, path: str, choice: str) -> None:
    for seed in range(3):
        g1.script.append(WRONG if seed else "")
        body = asked(path, tool_choice=choices_of(path, choice), seed=seed, parallel_tool_calls=False)
        answer = g1.post(path, body)
        assert answer.status == 200, answer.data
        ((name, arguments),) = calls(path, answer.json)
        assert name == "weather"
        assert fits(arguments), arguments


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("strict", [False, True])
def test_a_call_that_may_be_made(g1: Client, path: str, strict: bool) -> None:
    g1.script.append(BEGUN + WRONG)
    more: dict[str, Any] = {"parallel_tool_calls": False}
    if path == MESSAGES:
        more = {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    answer = g1.post(path, asked(path, tools=tools(path, strict=strict), **more)).json
    ((_, arguments),) = calls(path, answer)
    assert fits(arguments) is strict
    assert "Let me see." in json.dumps(answer)


def test_a_stream_has_the_same_calls(g1: Client) -> None:
    body = asked(CHAT, tools=tools(CHAT, strict=True), seed=1, parallel_tool_calls=False)
    g1.script.append(BEGUN + WRONG)
    whole = calls(CHAT, g1.post(CHAT, body).json)
    g1.script.append(BEGUN + WRONG)
    chunks = [chunk["choices"][0] for chunk in g1.post(CHAT, {**body, "stream": True}).events]
    deltas = [call["function"] for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
    text = "".join(delta["arguments"] for delta in deltas)
    assert [(deltas[0]["name"], json.loads(text))] == whole
    assert fits(json.loads(text))
    assert chunks[-1]["finish_reason"] == "tool_calls"


def test_several_answers(g1: Client) -> None:
    body = asked(CHAT, tool_choice="required", n=4, seed=5, temperature=2)
    choices = g1.post(CHAT, body).json["choices"]
    arguments = [json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) for choice in choices]
    assert all(map(fits, arguments))
    assert len({json.dumps(each) for each in arguments}) > 1


@pytest.mark.parametrize("strict", [False, True])
def test_at_most_one_call(g1: Client, strict: bool) -> None:
    call = '```json\n{"name": "weather", "arguments": {"city": "Ur", "days": 1}}\n```\n'
    for parallel, count in ((None, 2), (True, 2), (False, 1)):
        g1.script.append(">" + call + call + "\n\nUser:")
        body = asked(CHAT, tools=tools(CHAT, strict=strict), parallel_tool_calls=parallel)
        answer = g1.post(CHAT, body).json
        assert len(calls(CHAT, answer)) == count
        assert answer["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_schema_that_cannot_be_promised(g1: Client, path: str) -> None:
    unsupported = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    strict = g1.post(path, asked(path, tools=tools(path, unsupported, strict=True)))
    assert (strict.status, strict.error["param"], strict.error["code"]) == (400, "tools", "invalid_grammar")
    assert "'weather'" in strict.error["message"]
    g1.script.append(' {"a": 3}}' if path != MESSAGES else ' "weather", "arguments": {"a": 3}}')
    choice = choices_of(path, "required" if path == MESSAGES else "named")
    loose = g1.post(path, asked(path, tools=tools(path, unsupported), tool_choice=choice, max_tokens=60))
    assert calls(path, loose.json)[0] == ("weather", {"a": 3})


def test_without_llguidance(g1: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    strict = g1.post(CHAT, asked(CHAT, tools=tools(CHAT, strict=True)))
    assert strict.status == 501
    assert "rwkv-cy[grammar]" in strict.error["message"]
    g1.script.append(WRONG)
    loose = g1.post(CHAT, asked(CHAT, tool_choice=choices_of(CHAT, "named")))
    assert calls(CHAT, loose.json) == [("weather", {"town": "Ur", "day": "mon"})]


def test_the_form_of_a_message(g1: Client) -> None:
    form = {"type": "json_schema", "schema": CITY}
    body = asked(MESSAGES, output_config={"format": form, "effort": "low"}, tools=None)
    answer = g1.post(MESSAGES, body).json
    assert fits(json.loads(answer["content"][0]["text"]))
    assert answer["stop_reason"] == "end_turn"
    wrong = g1.post(MESSAGES, {**body, "output_config": {"format": {"type": "json_schema", "schema": {"enum": []}}}})
    assert (wrong.status, wrong.error["param"], wrong.error["code"]) == (400, "output_config.format", "invalid_grammar")
