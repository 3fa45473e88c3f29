"""``generate --beams`` and ``--best-of``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.cli import generate as generate_command
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import SamplingOptions, beam_search, best_of


@pytest.fixture(autouse=True)
def default_model(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command use the model of the fixtures where none is named."""
    monkeypatch.setattr(generate_command, "demo_model_path", lambda: kjv_checkpoint)


PROMPT = ("--prompt", "And he said", "-n", "12")


def test_beams(run: Run, kjv: LanguageModel) -> None:
    best = beam_search(kjv, "And he said", beams=3, max_tokens=12)[0]
    result = run("generate", *PROMPT, "--beams", "3")
    assert (result.code, result.out, result.err) == (0, "And he said" + best.text, "")
    short = beam_search(kjv, "And he said", beams=3, max_tokens=12, length_penalty=0, stop=["the"])[0]
    result = run("generate", *PROMPT, "--beams", "3", "--length-penalty", "0", "--stop", "the")
    assert result.out == "And he said" + short.text


def test_best_of(run: Run, kjv: LanguageModel) -> None:
    options = SamplingOptions(temperature=0.7, presence_penalty=0.2)
    best = best_of(kjv, "And he said", 3, seed=5, max_tokens=12, options=options)[0]
    sampling = ("--temperature", "0.7", "--presence-penalty", "0.2", "--seed", "5")
    assert run("generate", *PROMPT, "--best-of", "3", *sampling).out == "And he said" + best.text


@pytest.mark.parametrize("option", ["--beams", "--best-of"])
def test_json_has_all_candidates(run: Run, option: str) -> None:
    result = run("generate", *PROMPT, option, "3", "--seed", "1", "--json")
    report = json.loads(result.out)
    assert list(report) == ["schema", "model", "prompt", "seed", "candidates"]
    assert report["schema"] == "rwkv-cy/generate-search/1"
    assert len(report["candidates"]) == 3
    assert list(report["candidates"][0]) == ["text", "tokens", "logprob", "score", "finish_reason"]
    scores = [candidate["score"] for candidate in report["candidates"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--length-penalty", "1"), "--length-penalty is for --beams; leave it out"),
        (("--beams", "2", "--best-of", "2"), "--beams and --best-of exclude each other; leave one out"),
        (("--beams", "257"), "argument --beams: expected an integer from 1 to 256, got '257'"),
        (("--best-of", "257"), "argument --best-of: expected an integer from 1 to 256, got '257'"),
        (("--beams", "2", "-n", "0"), "--beams needs --max-tokens of at least 1"),
        (("--beams", "2", "--stats"), "--stats is for one text, not for a search; leave it out"),
        (("--best-of", "2", "--save-state", "x.h5"), "--save-state is for one text, not for a search; leave it out"),
    ],
)
def test_options_that_do_not_fit(run: Run, options: tuple[str, ...], message: str) -> None:
    result = run("generate", *PROMPT, *options)
    assert result.code == 2
    assert message in result.err
