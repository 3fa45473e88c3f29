"""Answers split into reasoning, content and calls; the same however the text is split into pieces."""

from __future__ import annotations

import json
import random
from itertools import count

import pytest

from rwkv_cy.chat import Answer, AnswerParser, CallDelta, CallStart, TextDelta

CALL = '{"name": "weather", "arguments": {"city": "K\\"ö}ln", "days": [1, {"a": 2}]}}'
ARGUMENTS = '{"city": "K\\"ö}ln", "days": [1, {"a": 2}]}'
OTHER = '```json\n{"name": "g", "arguments": {}}\n```'


def parse(pieces: list[str], tools: tuple[str, ...] = ("weather", "f")) -> tuple[Answer, list[object]]:
    numbers = count()
    parser = AnswerParser(tools, lambda: f"id{next(numbers)}")
    answer, events = Answer(), []
    for piece in [*pieces, None]:
        new = parser.finish() if piece is None else parser.push(piece)
        answer.add(new)
        events += new
    return answer, events


def calls(answer: Answer) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in answer.calls]


CASES = {
    "plain": (" Hello \n\nthere.\n", "Hello \n\nthere.", "", []),
    "empty": ("", "", "", []),
    "blanks": ("  \n ", "", "", []),
    "thinking": (" <think>\nWell,\n\nhm. \n</think>\n Yes.", "Yes.", "Well,\n\nhm.", []),
    "an empty thought": (" <think>\n</think>\nYes.", "Yes.", "", []),
    "a thought without an end": (" <think>\nWell", "", "Well", []),
    "part of a tag": ("a </thin <think> b <thi", "a </thin <think> b <thi", "", []),
    "half a tag at the beginning": (" <thin", "<thin", "", []),
    "a fence": (f" ```json\n{CALL}\n```\n", "", "", [("weather", ARGUMENTS)]),
    "a tag": (f"<tool_call>{CALL}</tool_call>", "", "", [("weather", ARGUMENTS)]),
    "after text": (f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>", "Let me see.", "", [("weather", ARGUMENTS)]),
    "after thinking": (f" <think>x</think>```json{CALL}```", "", "x", [("weather", ARGUMENTS)]),
    "two": (
        f'```json\n{CALL}\n```\n```json\n{{"name": "f", "arguments": {{}}}}\n```',
        "",
        "",
        [("weather", ARGUMENTS), ("f", "{}")],
    ),
    "an array": (
        '```json\n[{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {}}]\n```',
        "",
        "",
        [("f", '{"a": 1}'), ("f", "{}")],
    ),
    "another order": ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", "", [("f", '{"a": 1}')]),
    "arguments as text": (
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        "",
        "",
        [("f", '{"a": 1}')],
    ),
    "no arguments": ('<tool_call>{"name": "f"}</tool_call>', "", "", [("f", "{}")]),
    "another key follows": (
        '<tool_call>{"name": "f", "arguments": {"a": 1}, "x": {"y": 2}}</tool_call> z',
        "z",
        "",
        [("f", '{"a": 1}')],
    ),
    "without the end": ('```json\n{"name": "f", "arguments": {"a": 1', "", "", [("f", '{"a": 1')]),
    "without the name": ('```json\n{"name": "f', '```json\n{"name": "f', "", []),
    "another tool": (
        '```json\n{"name": "g", "arguments": {}}\n```',
        '```json\n{"name": "g", "arguments": {}}\n```',
        "",
        [],
    ),
    "JSON that is not a call": ('See:\n```json\n{"a": [1]}\n```\nok', 'See:\n```json\n{"a": [1]}\n```\nok', "", []),
    "code": ("```json5\n1\n``` x", "```json5\n1\n``` x", "", []),
    "a wrong and a right one": (
        '```json\n{"a": 1}\n```\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
        '```json\n{"a": 1}\n```',
        "",
        [("f", "{}")],
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_an_answer(text: str) -> None:
    source, content, reasoning, expected = CASES[text]
    answer, whole = parse([source])
    assert (answer.content, answer.reasoning, calls(answer)) == (content, reasoning, expected)
    single, _ = parse(list(source))
    assert single == answer
    rng = random.Random(0)
    for _ in range(20):
        cuts = sorted(rng.choices(range(len(source) + 1), k=3))
        pieces = [source[a:b] for a, b in zip([0, *cuts], [*cuts, len(source)], strict=True)]
        assert parse(pieces)[0] == answer
    assert all(event.text for event in whole if isinstance(event, (TextDelta, CallDelta)))


def test_without_tools_a_call_is_text() -> None:
    text = f"```json\n{CALL}\n```"
    answer, _ = parse([text], ())
    assert (answer.content, answer.calls) == (text, [])


def test_arguments_come_as_they_are_written() -> None:
    _, events = parse(list(f"```json\n{CALL}\n```"))
    assert [event for event in events if isinstance(event, CallStart)] == [CallStart(0, "id0", "weather")]
    pieces = [event.text for event in events if isinstance(event, CallDelta)]
    assert "".join(pieces) == ARGUMENTS
    assert len(pieces) == len(ARGUMENTS)
    assert json.loads("".join(pieces))["days"] == [1, {"a": 2}]


def test_text_is_not_held_back_without_a_reason() -> None:
    parser = AnswerParser(("f",))
    assert parser.push(" Hel") == [TextDelta("content", "Hel")]
    assert parser.push("lo ") == [TextDelta("content", "lo")]
    assert parser.push("you `") == [TextDelta("content", " you")]
    assert parser.push("a`") == [TextDelta("content", " `a")]
    assert parser.finish() == [TextDelta("content", "`")]


def test_deep_nesting_is_not_a_call() -> None:
    text = '<tool_call>{"arguments": ' + "[" * 100_000 + "]" * 100_000 + ', "name": "f"}</tool_call>'
    answer, _ = parse([text])
    assert answer.calls == []
    assert answer.content == text
