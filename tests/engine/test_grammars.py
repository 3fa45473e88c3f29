"""Grammars in the engine: the texts are those of the model alone, and what is forced is read in one pass."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from engine.helpers import eager
from rwkv_cy.engine import Engine, Request
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import Grammar, SamplingOptions

pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

GRAMMAR = Grammar.json_schema(
    {
        "type": "object",
        "properties": {
            "a long name of a member": {"type": "integer", "minimum": 0, "maximum": 99},
            "and another": {"enum": ["x", "y"]},
        },
        "required": ["a long name of a member", "and another"],
        "additionalProperties": False,
    }
)


@pytest.fixture(scope="module")
def model(kjv_checkpoint: Path) -> LanguageModel:
    return load(kjv_checkpoint)


def requests(model: LanguageModel) -> Iterable[Request]:
    assert model.tokenizer is not None
    for seed in range(3):
        yield Request(
            prompt="And he said ",
            options=SamplingOptions(top_p=1.0),
            seed=seed,
            constraints=[GRAMMAR.constraint(model.tokenizer)],
            id=str(seed),
        )


def test_texts_are_those_of_the_model_alone(model: LanguageModel) -> None:
    alone = {str(seed): model.generate("And he said ", grammar=GRAMMAR, seed=seed, top_p=1.0) for seed in range(3)}
    expected = {name: "".join(generation) for name, generation in alone.items()}
    for speculation in (None, eager(most=7, lookup=False)):
        texts, accepted = dict.fromkeys(expected, ""), 0
        for event in Engine(model, slots=2, speculation=speculation).run(requests(model)):
            texts[event.request_id] += event.text
            if event.finish_reason is not None:
                assert (event.finish_reason, event.matched, event.error) == ("grammar", None, None)
                assert event.usage is not None
                accepted += event.usage.accepted_tokens
        assert texts == expected
        assert (accepted > 60) == (speculation is not None)  # most of the members' names
    for text in expected.values():
        assert set(json.loads(text)) == {"a long name of a member", "and another"}
