"""The plugin for llm: the demo model through llm's API and command, and models under names."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("llm", reason="uses the models through llm")

import llm
from click.testing import CliRunner
from llm.plugins import load_plugins, pm

from pages import ROOT
from rwkv_cy.chat import ChatSession, choose_format
from rwkv_cy.demo import demo_model_path
from rwkv_cy.integrations import llm_plugin
from rwkv_cy.model.language_model import LanguageModel, load

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> None:
    """Register the plugin alone, not those that the environment has."""
    with mock.patch.object(sys, "_called_from_test", True, create=True):
        load_plugins()
    if not pm.is_registered(llm_plugin):
        pm.register(llm_plugin, name="rwkv-cy")


@pytest.fixture(scope="module")
def shipped() -> LanguageModel:
    """Return the model that the package comes with."""
    return load(demo_model_path())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


def invoke(*words: str) -> Any:
    from llm.cli import cli  # which asks the plugins for their commands as it is imported

    return CliRunner().invoke(cli, words)


def run(*words: str) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["llm"] == {"rwkv-cy": llm_plugin.__name__}


def test_an_answer_and_a_further_turn(shipped: LanguageModel) -> None:
    model = llm.get_model("rwkv-cy-demo")
    conversation = model.conversation()
    options = {"max_tokens": 20, "temperature": 0.0}
    first = conversation.prompt("Who made the light?", system="Be brief.", **options)
    answer = "".join(first)
    second = conversation.prompt("And the sea?", **options)
    session = ChatSession(shipped, choose_format(demo_model_path()), system="Be brief.", max_tokens=20)
    session.sampling = {"temperature": 0.0}
    expected = []
    for question in ("Who made the light?", "And the sea?"):
        reply = session.ask(question)
        list(reply)
        expected.append(reply.answer.content)
    assert [answer, second.text()] == expected
    assert answer
    assert first.usage().output == 20
    assert second.usage().input < first.usage().input + 20  # the first turn was not read again


def test_a_seed() -> None:
    model = llm.get_model("rwkv-cy-demo")
    texts = [model.prompt("Speak", max_tokens=20, seed=seed, temperature=1.0).text() for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_error_is_one_of_llm(folder: Path) -> None:
    model = llm.get_model("rwkv-cy-demo")
    with pytest.raises(llm.ModelError, match="thinking: expected"):
        model.prompt("Speak", thinking="much").text()


def test_embeddings(shipped: LanguageModel) -> None:
    vector = llm.get_embedding_model("rwkv-cy-demo").embed("the light")
    assert vector == shipped.embed("the light", normalize=True).tolist()
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_models_under_names(folder: Path, kjv_checkpoint: Path) -> None:
    run("rwkv-cy", "add", "kjv", str(kjv_checkpoint), "--dtype", "q8")
    assert json.loads((folder / "rwkv-cy.json").read_text()) == {"kjv": {"path": str(kjv_checkpoint), "dtype": "q8"}}
    assert run("rwkv-cy", "list") == f"kjv: {kjv_checkpoint}\n"
    assert "rwkv-cy: kjv" in run("models")
    assert run("-m", "kjv", "Speak", "-o", "max_tokens", "5", "-n").strip()
    run("rwkv-cy", "remove", "kjv")
    assert run("rwkv-cy", "list") == ""
    for words, message in (
        (("remove", "kjv"), "kjv: expected one of no models"),
        (("add", "x", str(folder / "nothing")), "nothing"),
    ):
        result = invoke("rwkv-cy", *words)
        assert result.exit_code == 1
        assert message in result.output


def test_a_damaged_list(folder: Path) -> None:
    (folder / "rwkv-cy.json").write_text('{"a": 5}')
    result = invoke("rwkv-cy", "list")
    assert "expected a path for each model" in str(result.exception)
