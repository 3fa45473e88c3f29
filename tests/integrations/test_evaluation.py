"""rwkv-cy eval: tasks of lm-eval on kjv.pth, against plain scores; documents of the tests, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="runs tasks of lm-eval")

from pages import ROOT
from rwkv_cy.cli.main import main
from rwkv_cy.errors import ConfigError, StorageError, TokenizerError
from rwkv_cy.integrations import evaluation
from rwkv_cy.integrations.evaluation import RWKVLM, evaluate
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import WorldTokenizer

pytestmark = pytest.mark.filterwarnings("default")

QUESTIONS = [
    ("In the beginning God created the heaven and the", ["earth", "bread", "sword"], 0),
    ("In the beginning God created the light. And the", [" LORD said", " zebra", "\x7f"], 0),
    ("And God said, Let there be light: and there was", ["light", "xylophone"], 0),
    ("And it came to", ["pass", "qqq"], 1),
]
CHOICE = """
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/words.jsonl"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: choices
doc_to_target: answer
"""
ROLLING = """
task: whole
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/words.jsonl"}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: byte_perplexity}]
"""
GENERATION = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/words.jsonl"}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"text": text, "choices": choices, "answer": answer} for text, choices, answer in QUESTIONS]
    (folder / "words.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name, text in (("words", CHOICE), ("whole", ROLLING), ("answers", GENERATION)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep lm-eval and datasets from the network, and from the hundreds of tasks that lm-eval comes with."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    own = evaluation.TaskManager
    monkeypatch.setattr(evaluation, "TaskManager", lambda **given: own(include_defaults=False, **given))


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=given) for given in arguments]


def plain(model: LanguageModel, context: list[int], continuation: list[int]) -> float:
    return float(np.sum(model.score([*context, *continuation])[len(context) :]))


def test_log_likelihoods_are_those_of_plain_scoring(kjv: LanguageModel) -> None:
    pairs = [(text, f" {choice}") for text, choices, _ in QUESTIONS for choice in choices]
    pairs += [("", "And God"), ("And ", "God"), ("And God said", ""), (" ", "x")]
    encode = kjv.tokenizer.encode  # type: ignore[union-attr]
    results = RWKVLM(kjv).loglikelihood(requests(*pairs))
    for (context, continuation), (value, greedy) in zip(pairs, results, strict=True):
        before = encode(context.rstrip()) or encode("\n")
        after = encode(context + continuation)[len(encode(context.rstrip())) :]
        assert value == pytest.approx(plain(kjv, before, after) if after else 0.0, abs=1e-6)
        generated = kjv.generate(before, max_tokens=max(len(after), 1), temperature=0)
        text = "".join(generated).encode()
        assert greedy == text.startswith(bytes(after)) if after else greedy


def test_a_context_that_several_begin_with_runs_once(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    forward = LanguageModel.forward

    def counted(self: LanguageModel, tokens: Any, *given: Any, **named: Any) -> Any:
        lengths.append(np.size(tokens))
        return forward(self, tokens, *given, **named)

    monkeypatch.setattr(LanguageModel, "forward", counted)
    shared = "In the beginning God created "
    RWKVLM(kjv).loglikelihood(requests(*((f"{shared}the {word}:", f" {word}") for word in ("sea", "sun", "day"))))
    assert sum(lengths) < len(shared) + 30


def test_whole_texts(kjv: LanguageModel, heldout: bytes) -> None:
    text = heldout[:700].decode()
    value, empty = RWKVLM(kjv).loglikelihood_rolling(requests((text,), ("",)))
    assert value == pytest.approx(plain(kjv, list(b"\n"), list(text.encode())), abs=1e-6)
    assert empty == 0.0


def test_answers(kjv: LanguageModel) -> None:
    contexts = ["In the beginning", "In the beg", "In the beginning"]
    greedy = {"until": ["\n"], "max_gen_toks": 20, "temperature": 0.9, "do_sample": False}
    answers = RWKVLM(kjv).generate_until(requests(*((context, greedy) for context in contexts)))
    for context, answer in zip(contexts, answers, strict=True):
        assert answer == "".join(kjv.generate(context, max_tokens=20, temperature=0, stop="\n"))
    (stopped,) = RWKVLM(kjv).generate_until(requests(("In the beginning", {"until": answers[0][3]})))
    assert stopped == answers[0][: answers[0].index(answers[0][3])]
    (sampled,) = RWKVLM(kjv).generate_until(requests(("", {"temperature": 1.0, "max_gen_toks": 5})))
    assert len(sampled) <= 5
    with pytest.raises(ConfigError, match=r"generation_kwargs: expected names among .*, got beams"):
        RWKVLM(kjv).generate_until(requests(("a", {"beams": 4})))


def test_a_token_that_joins_context_and_continuation_is_scored(kjv: LanguageModel) -> None:
    vocabulary = [b"", b"a", b"b", b"ab", b" "]
    adapter = RWKVLM(kjv)
    adapter._encoder = WorldTokenizer(vocabulary)
    assert adapter.prefix == [0]
    assert adapter.split("ba", "b") == ([2], [3])
    assert adapter.split("a", "b") == ([0], [3])
    assert adapter.split("a ", "b") == ([1], [4, 2])
    assert adapter.split("", "ab") == ([0], [3])


def test_tasks(kjv: LanguageModel, tasks: Path) -> None:
    report = evaluate(kjv, ["words", "whole", "answers"], include=tasks)
    values = {(score.task, score.metric): score.value for score in report.scores}
    right = 0
    for text, choices, answer in QUESTIONS:
        scores = [plain(kjv, list(text.encode()), list(f" {choice}".encode())) for choice in choices]
        right += int(np.argmax(scores)) == answer
    assert 0 < right < len(QUESTIONS)
    assert values["words", "acc"] == pytest.approx(right / len(QUESTIONS))
    texts = [text for text, _, _ in QUESTIONS]
    total = sum(plain(kjv, list(b"\n"), list(text.encode())) for text in texts)
    assert values["whole", "byte_perplexity"] == pytest.approx(np.exp(-total / sum(map(len, texts))), rel=1e-6)
    assert 0 <= values["answers", "exact_match"] <= 1
    assert report.samples == {"words": 4, "whole": 4, "answers": 4}
    assert report.to_dict()["schema"] == "rwkv-cy/eval/1"


def test_the_command(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(ROOT / "data" / "kjv.pth"), "--tasks", "words", "--include", str(tasks), "--limit", "2"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    page = (ROOT / "docs" / "commands" / "eval.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in printed)
    assert all(f"`scores.{name}`" in page for name in printed["scores"][0])
    assert printed["samples"] == {"words": 2}
    assert main(command) == 0
    assert "acc" in capsys.readouterr().out
    assert main([*command, "--tasks", "nothing"]) == 1
    assert "expected names of lm-eval's tasks, got nothing" in capsys.readouterr().err


def test_mistakes(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="expected a folder with definitions"):
        evaluate(kjv, ["words"], include=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="got none"):
        evaluate(kjv, [], include=tmp_path)
    model = load(kjv_checkpoint)
    model._loaded.tokenizer = None
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        RWKVLM(model)
