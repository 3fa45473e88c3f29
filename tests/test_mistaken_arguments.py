"""Arguments of another type: an error says what was expected, where an attribute would be missing later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rwkv_cy import TrainingOptions, tune
from rwkv_cy.batch import BatchWorker, EmbedTask, ScoreTask, run_batch
from rwkv_cy.engine import Engine, Request, loglikelihoods
from rwkv_cy.errors import ConfigError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import beam_search, best_of
from rwkv_cy.text.start import start_sequence

A_MODEL = "model: expected a model, got str; rwkv_cy.load makes a model of a file"


@pytest.mark.parametrize(
    "call",
    [
        Engine,
        lambda path: beam_search(path, "a"),
        lambda path: best_of(path, "a", 2),
        lambda path: loglikelihoods(path, [([1], [2])]),
        lambda path: run_batch(path, "text.txt", "answers", ScoreTask()),
    ],
    ids=["Engine", "beam_search", "best_of", "loglikelihoods", "run_batch"],
)
def test_a_path_in_place_of_a_model(call: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigError) as raised:
        call("model.h5")
    assert str(raised.value) == A_MODEL


def test_the_start_of_a_text_needs_no_forward(kjv: LanguageModel) -> None:
    """It is for models of others too, of which it knows the vocabulary and the tokenizer."""
    model = SimpleNamespace(vocab_size=256, tokenizer=kjv.tokenizer)
    assert start_sequence(model, "ab").prompt == [97, 98]


def test_other_arguments(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    worker = BatchWorker(kjv_checkpoint, EmbedTask())
    options: Any = {"temperature": 0}
    run: Any = run_batch
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: Engine(kjv, cache="1 GB"), "cache: expected a StateCache, got str"),  # type: ignore[arg-type]
        (lambda: Engine(kjv, speculation=True), "speculation: expected a Speculation or None, got bool"),  # type: ignore[arg-type]
        (
            lambda: Engine(kjv).submit(Request(prompt="a", options=options)),
            "options: expected SamplingOptions, got dict",
        ),
        (
            lambda: kjv.generate("a", grammar="[0-9]+"),  # type: ignore[arg-type]
            'grammar: expected a Grammar, got str; as Grammar("regex", "[0-9]+")',
        ),
        (lambda: run(kjv, "text.txt", tmp_path / "a", "score"), "task: expected a task, got str; as GenerateTask()"),
        (
            lambda: run(kjv, "text.txt", tmp_path / "a", ScoreTask(), workers=2),
            "workers: expected LocalProcesses or RayActors, got int",
        ),
        (lambda: worker([1]), "columns: expected a mapping of names to columns, got list"),  # type: ignore[arg-type]
        (lambda: ScoreTask(window="512"), "window: expected at least 2 tokens, got '512'"),  # type: ignore[arg-type]
        (
            lambda: tune(kjv, [], tmp_path / "lora.pth", TrainingOptions(steps=1)),
            "data: expected at least one text, got none",
        ),
    ]
    for call, message in calls:
        with pytest.raises(ConfigError) as raised:
            call()
        assert str(raised.value) == message
    assert list(tmp_path.iterdir()) == []
