"""Generation under grammars: every text fits, whatever the sampling options; errors of grammars."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import GenerationError, MissingDependencyError
from rwkv_cy.kernels.sample import apply_mask
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import ByteTokenizer, Grammar, WorldTokenizer
from rwkv_cy.text.grammars.vocabulary import grammar_vocabulary
from rwkv_cy.text.tokenizers.world import WORLD_SIZE

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema (the extra test)")
pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "good": {"type": "boolean"},
    },
    "required": ["name", "age", "tags", "good"],
    "additionalProperties": False,
}
#: Tokens in order of their bytes; the last but one is the byte that UTF-8 does not have.
WORDS = sorted(
    {bytes([byte]) for byte in range(256)}
    | {b'{"', b'": ', b'", "', b"name", b"age", b'"name": "', b"true}", "é".encode()}
)


@pytest.fixture(scope="module")
def model(kjv_checkpoint: Path) -> LanguageModel:
    return load(kjv_checkpoint)


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return WorldTokenizer([b"", *WORDS, *[b""] * (WORLD_SIZE - 1 - len(WORDS))])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_p": 1}, {"temperature": 2.0, "top_k": 5}])
def test_json_fits_its_schema(model: LanguageModel, seed: int, options: Mapping[str, Any]) -> None:
    generation = model.generate("And he said ", grammar=Grammar.json_schema(SCHEMA), seed=seed, **options)
    value = json.loads("".join(generation))
    jsonschema.validate(value, SCHEMA)
    assert generation.finish_reason == "grammar"


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar("regex", "[0-9]{3}-(yes|no)"), "[0-9]{3}-(yes|no)"),
        (Grammar("lark", 'start: "I am " NUMBER\nNUMBER: /[1-9]{2}/'), "I am [1-9]{2}"),
        (Grammar("gbnf", 'root ::= ("b" | word) "."\nword ::= [aou]{2}'), r"(b|[aou]{2})\."),
        (Grammar("regex", "[äöü€]{4}"), "[äöü€]{4}"),
    ],
)
def test_a_text_follows_its_rules(model: LanguageModel, grammar: Grammar, pattern: str) -> None:
    for seed in range(5):
        text = "".join(model.generate("Lo, ", grammar=grammar, seed=seed, top_p=1.0))
        assert re.fullmatch(pattern, text), text


def test_any_json_object(model: LanguageModel) -> None:
    generation = model.generate("x", grammar=Grammar.json_object(), seed=1, max_tokens=400)
    text = "".join(generation)
    assert text.startswith("{")
    assert generation.finish_reason == "length" or isinstance(json.loads(text), dict)


def test_tokens_of_several_bytes(world: WorldTokenizer) -> None:
    """Random texts of a vocabulary like World's: they fit, and the end of text is allowed where the text may end."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        constraint, tokens = Grammar.json_schema(SCHEMA).constraint(world), []
        while not constraint.is_complete(tokens):
            logits = rng.standard_normal(world.vocab_size, dtype=np.float32)
            constraint(tokens, logits)
            tokens.append(int(np.argmax(logits)))
            assert tokens[-1] != 0
        jsonschema.validate(json.loads(world.decode(tokens, "strict")), SCHEMA)
    digits = Grammar("regex", "[0-9]+").constraint(world)
    for count, allowed in ((0, False), (1, True)):
        logits = np.zeros(world.vocab_size, np.float32)
        digits(world.encode("7" * count), logits)
        assert (logits[0] == 0) == allowed
        assert digits.is_accepted(world.encode("7" * count)) == allowed


def test_the_byte_that_utf8_does_not_have_is_never_allowed(world: WorldTokenizer) -> None:
    for tokenizer in (world, ByteTokenizer()):
        logits = np.zeros(tokenizer.vocab_size, np.float32)
        Grammar("regex", "(?s:.)+").constraint(tokenizer)([], logits)
        allowed = b"".join(tokenizer.decode_bytes([token]) for token in np.flatnonzero(logits == 0))
        assert b"\xff" not in allowed
        assert b"a" in allowed


def test_forced_tokens_are_those_of_the_only_text(world: WorldTokenizer) -> None:
    for tokenizer in (world, ByteTokenizer()):
        constraint = Grammar.json_schema(SCHEMA).constraint(tokenizer)
        forced = constraint.forced_tokens([])
        assert b'{"name": "'.startswith(tokenizer.decode_bytes(forced))
        assert len(tokenizer.decode_bytes(forced)) > 5
        tokens = [*forced, *tokenizer.encode_bytes(b'{"name": "'[len(tokenizer.decode_bytes(forced)) :])]
        assert constraint.forced_tokens(tokens) == []
        yes = Grammar("regex", "yes").constraint(tokenizer)
        assert tokenizer.decode(yes.forced_tokens([])) == "yes"
        assert yes.forced_tokens(tokenizer.encode("yes")) == []


def test_a_text_that_becomes_shorter(world: WorldTokenizer) -> None:
    constraint, fresh = (Grammar("regex", "ab+c").constraint(world) for _ in range(2))
    first, second = (np.zeros(world.vocab_size, np.float32) for _ in range(2))
    assert constraint.is_complete(world.encode("abbc"))
    constraint(world.encode("a"), first)
    fresh(world.encode("a"), second)
    np.testing.assert_array_equal(first, second)


def test_an_interrupted_generation_goes_on(model: LanguageModel) -> None:
    def run(stops: int) -> str:
        calls = 0

        def interrupt(tokens: object, logits: object) -> None:
            nonlocal calls
            calls += 1
            if calls == stops:
                raise KeyboardInterrupt

        generation = model.generate("x", grammar=Grammar.json_schema(SCHEMA), seed=3, logits_processors=[interrupt])
        try:
            for _ in generation:
                pass
        except KeyboardInterrupt:
            for _ in generation:
                pass
        return generation.text

    assert run(0) == run(9)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("xml", "", "grammar: expected one of json_schema, regex, lark, gbnf, got 'xml'"),
        ("regex", 5, "regex: expected a str, got int"),
        ("regex", "a" * (1 << 20) + "b", "regex: expected at most 1048576 bytes, got 1048577"),
        ("json_schema", "{", "json_schema: expected JSON"),
        ("json_schema", "[" * 100_000, "json_schema: expected JSON"),
        ("json_schema", "3", "json_schema: expected an object, got '3'"),
    ],
)
def test_what_is_not_a_grammar(kind: str, text: str, message: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(message)):
        Grammar(kind, text)
    with pytest.raises(GenerationError, match="json_schema: expected a schema that JSON can express"):
        Grammar.json_schema({"const": object()})


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("regex", "[a-", "regex: .*unclosed character class"),
        ("regex", "[a&&b]", "regex: expected a grammar that allows a text"),
        ("regex", "", "regex: expected a grammar that allows a text"),
        ("lark", "start: other", "lark: .*unknown name"),
        ("lark", "", "lark: "),
        ("gbnf", "root ::= (", "gbnf: Expected"),
        ("gbnf", "root ::= " + "(" * 100_000, "gbnf: "),
        ("json_schema", '{"not": {}}', "json_schema: Unimplemented keys"),
        ("json_schema", '{"enum": []}', "json_schema: Unsatisfiable schema"),
        ("json_schema", '{"type": "string", "minLength": 3, "maxLength": 2}', "json_schema: Unsatisfiable schema"),
        ("json_schema", '{"$ref": "https://example.com/s.json"}', "json_schema: .*not present"),
        ("json_schema", '{"a":' * 500 + "1" + "}" * 500, "json_schema: "),
    ],
)
def test_a_grammar_that_is_wrong(kind: str, text: str, message: str) -> None:
    with pytest.raises(GenerationError, match=message) as raised:
        Grammar(kind, text).constraint(ByteTokenizer())
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_text_that_does_not_follow() -> None:
    constraint = Grammar("regex", "ab").constraint(ByteTokenizer())
    with pytest.raises(GenerationError, match="regex: after 0 tokens: .*doesn't satisfy"):
        constraint(list(b"x"), np.zeros(256, np.float32))


def test_the_vocabulary_is_made_once(world: WorldTokenizer) -> None:
    assert grammar_vocabulary(world) is grammar_vocabulary(world)


def test_without_llguidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'rwkv-cy[grammar]'")):
        Grammar("regex", "a").constraint(ByteTokenizer())


@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_the_mask(size: int) -> None:
    rng = np.random.default_rng(size)
    bits = rng.random(32 * 4) < 0.5
    bits[:32] = True
    logits = rng.standard_normal(size, dtype=np.float32)
    expected = np.where(bits[:size], logits, -np.inf)
    apply_mask(np.packbits(bits, bitorder="little").view(np.uint32), logits)
    np.testing.assert_array_equal(logits, expected)
