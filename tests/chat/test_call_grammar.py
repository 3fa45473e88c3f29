"""Calls fit the schemas of their tools, whatever a model would write; other text is free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rwkv_cy.chat import (
    FORMATS,
    Answer,
    AnswerParser,
    CallConstraint,
    CallGrammar,
    Conversation,
    Message,
    Tool,
    build_prompt,
    needs_grammar,
)
from rwkv_cy.errors import GenerationError
from rwkv_cy.text import ByteTokenizer, Tokenizer, WorldTokenizer
from rwkv_cy.text.tokenizers.world import WORLD_SIZE

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema (the extra test)")
pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"day": {"enum": ["mon", "tue"]}},
}
NUMBER = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["x"]}
TOOLS = [
    Tool("weather", "Tells the weather", CITY, strict=True),
    Tool('wé"ather/2', "", {**NUMBER, "additionalProperties": False}, strict=True),
]
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}
QUESTION = [Message("user", "Weather?")]
#: Tokens in order of their bytes; several go beyond where a call begins.
WORDS = sorted(
    {bytes([byte]) for byte in range(256)}
    | {
        b"```json\n{",
        b'": "',
        b'name": "wea',
        b'"name": "',
        b'": {"',
        b'"}}',
        b"}}\n```",
        b"weather",
        b'{"name":',
        b'{"x',
    }
)


@pytest.fixture(scope="module", params=["bytes", "world"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    return WorldTokenizer([b"", *WORDS, *[b""] * (WORLD_SIZE - 1 - len(WORDS))])


def walk(
    constraint: CallConstraint, tokenizer: Tokenizer, script: str, seed: int, most: int = 300, *, whole: bool = False
) -> str:
    """Return a text: a script as long as it is allowed, then random tokens; it ends where nothing follows, or with
    `whole` with the script."""
    rng = np.random.default_rng(seed)
    data, tokens, place = script.encode(), list[int](), 0
    size = min(tokenizer.vocab_size, len(WORDS) + 1)
    pieces = [tokenizer.decode_bytes([token]) for token in range(size)]
    while len(tokens) < most and not constraint.is_complete(tokens):
        logits = rng.standard_normal(tokenizer.vocab_size).astype(np.float32)
        logits[size:] = -np.inf
        logits[[token for token, piece in enumerate(pieces) if not piece]] = -np.inf
        for token, piece in enumerate(pieces):
            if piece and place >= 0 and data.startswith(piece, place):
                logits[token] += 100
        constraint(tokens, logits)
        token = int(logits.argmax())
        assert np.isfinite(logits[token])
        forced = constraint.forced_tokens(tokens)
        tokens.append(token)
        if place >= 0:
            place = place + len(pieces[token]) if data.startswith(pieces[token], place) else -1
        assert not forced or pieces[forced[0]].startswith(pieces[token]), "a forced token is not allowed"
        if place == len(data) and whole:
            break
    return tokenizer.decode(tokens)


def answer_of(text: str, opening: str, tools: Sequence[Tool] = TOOLS) -> Answer:
    parser, answer = AnswerParser([tool.name for tool in tools], exact=True), Answer()
    answer.add([*parser.push(opening), *parser.push(text), *parser.finish()])
    return answer


def check(answer: Answer, schemas: Mapping[str, Any] = SCHEMAS) -> None:
    for call in answer.calls:
        jsonschema.validate(json.loads(call.arguments), schemas[call.name])


@pytest.mark.parametrize("choice", ["required", "function:weather", 'function:wé"ather/2'])
@pytest.mark.parametrize("chat", ["world", "g1"])
def test_a_call_that_is_required(tokenizer: Tokenizer, choice: str, chat: str) -> None:
    conversation = Conversation(QUESTION, TOOLS, choice, parallel_calls=False)
    assert needs_grammar(conversation)
    opening = build_prompt(FORMATS[chat], conversation, ByteTokenizer()).opening
    grammar = CallGrammar(conversation, tokenizer, FORMATS[chat].call_open)
    names = set()
    for seed in range(4):
        text = walk(grammar.constraint(opening), tokenizer, "", seed)
        answer = answer_of(text, opening)
        assert (len(answer.calls), answer.content) == (1, ""), text
        check(answer)
        names.add(answer.calls[0].name)
    assert names == ({tool.name for tool in TOOLS} if choice == "required" else {choice.removeprefix("function:")})


CALL = '```json\n{"name": "weather", "arguments": '


@pytest.mark.parametrize(
    "begun", [CALL, CALL[:26], '<tool_call>\n {"name": "weather"', CALL + '{"city": "Rome", "days": ["fri']
)
def test_a_call_of_a_strict_tool(tokenizer: Tokenizer, begun: str) -> None:
    grammar = CallGrammar(Conversation(QUESTION, TOOLS, parallel_calls=False), tokenizer, "")
    for seed in range(4):
        text = walk(grammar.constraint(" <think>\n</think"), tokenizer, f">\nLet me see. {begun}", seed)
        answer = answer_of(text, " <think>\n</think")
        assert (answer.content, len(answer.calls)) == ("Let me see.", 1), text
        check(answer)


@pytest.mark.parametrize(
    "script",
    [
        'Four. {"name": "weather", "arguments": 3}',
        '```json\n{"name": "John", "age": 3}\n```',
        'See:\n```json\n{"a": "b"}\n```\nand ```json\n[1, 2]\n```.',
        '```json\n{"name": "other", "arguments": {"x": []}}\n``` so.',
        '```json\n{"arguments": {"city": 3}, "name": "weather"}\n``` so.',
        '```json\n[{"name": "weather", "arguments": {"city": 3}}]\n``` so.',
        '<think>I may write ```json\n{"name": "weather", "arguments": 7}</think> so',
    ],
)
def test_other_text_is_free_and_not_a_call(tokenizer: Tokenizer, script: str) -> None:
    grammar = CallGrammar(Conversation(QUESTION, TOOLS), tokenizer, "")
    text = walk(grammar.constraint(""), tokenizer, script, 1, whole=True)
    assert text == script
    assert answer_of(text, "").calls == []


def test_every_call_of_an_answer(tokenizer: Tokenizer) -> None:
    first = 'So.\n```json\n{"name": "weather", "arguments": {"city": "Rome", "days": []}}\n```\n'
    grammar = CallGrammar(Conversation(QUESTION, TOOLS), tokenizer, "")
    for seed in range(3):
        text = walk(grammar.constraint(""), tokenizer, first + CALL + "[", seed, 600)
        assert text.startswith(first)
        answer = answer_of(text, "")
        assert len(answer.calls) == 2
        check(answer)


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_format_that_does_not_begin_the_call_itself(tokenizer: Tokenizer, opening: str) -> None:
    conversation = Conversation(QUESTION, TOOLS, "required", parallel_calls=False)
    grammar = CallGrammar(conversation, tokenizer, "<tool_call>\n")
    answer = answer_of(walk(grammar.constraint(opening), tokenizer, "No.", 1), opening)
    assert len(answer.calls) == 1
    check(answer)


def test_tools_that_are_not_strict(tokenizer: Tokenizer) -> None:
    loose = Tool("loose", "", CITY)
    assert not needs_grammar(Conversation(QUESTION, [loose]))
    both = [*TOOLS, loose]
    grammar = CallGrammar(Conversation(QUESTION, both, parallel_calls=False), tokenizer, "")
    script = '```json\n{"name": "loose", "arguments": {"a": [1, "b"]}}'
    assert walk(grammar.constraint(""), tokenizer, script, 1, whole=True) == script
    text = walk(grammar.constraint(""), tokenizer, script.replace("{", "[")[:40], 1, 60)
    assert answer_of(text, "", both).calls == []
    text = walk(grammar.constraint(""), tokenizer, script[:38] + "[", 1, 60)
    assert answer_of(text, "", both).calls[0].arguments[0] == "{"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "string"}, "'f': expected a schema of an object, got type 'string'"),
        ({"properties": {"a": {"not": {}}}}, "'f': json_schema: .*not"),
        ({"properties": {"a": {"description": "x" * 70_000}}}, "'f': expected at most 65536 bytes, got 70"),
        ({"type": "object", "enum": []}, "'f': json_schema: "),
    ],
)
def test_a_schema_that_is_not_supported(schema: Any, message: str) -> None:
    tokenizer = ByteTokenizer()
    with pytest.raises(GenerationError, match=f"tools: the schema of {message}"):
        CallGrammar(Conversation(QUESTION, [Tool("f", "", schema, strict=True)]), tokenizer, "")
    loose = Conversation(QUESTION, [Tool("f", "", schema)], "required", parallel_calls=False)
    text = walk(
        CallGrammar(loose, tokenizer, "```json\n").constraint(""),
        tokenizer,
        '```json\n{"name": "f", "arguments": {}}',
        1,
    )
    assert [call.name for call in answer_of(text, "", loose.tools).calls] == ["f"]


def test_a_keyword_without_effect() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "not": {}}}, "required": ["a"]}
    conversation = Conversation(QUESTION, [Tool("f", "", schema)], "function:f")
    tokenizer = ByteTokenizer()
    for seed in range(3):
        text = walk(CallGrammar(conversation, tokenizer, "```json\n").constraint(""), tokenizer, "", seed, 900)
        (call,) = answer_of(text, "", conversation.tools).calls
        assert isinstance(json.loads(call.arguments)["a"], int)


def test_one_call_without_a_grammar() -> None:
    constraint = CallConstraint(["f"], ByteTokenizer(), "", single=True)
    text = list(b'```json\n{"name": "f", "arguments": "{}"} ')
    complete = [constraint.is_complete(text[:count]) for count in range(len(text))]
    assert complete == [False] * (len(text) - 1) + [True]
    assert constraint.forced_tokens(text) == ()
