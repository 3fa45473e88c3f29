from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from batch.helpers import lines, records, write_jsonl
from cli.conftest import Run
from rwkv_cy.cli.batch import _OWN_OPTIONS, TASKS
from rwkv_cy.model.language_model import LanguageModel


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", records(count=5))


def test_generate(run: Run, kjv: LanguageModel, kjv_checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    options = ("-n", 6, "--temperature", 0, "--stop", "e", "--slots", 2, "--block", 2, "--cache", 0)
    words = ("batch", "generate", kjv_checkpoint, prompts, "--out", tmp_path / "out", *options)
    result = run(*words)
    assert (result.code, result.err) == (0, "")
    assert "blocks    3 of 3\nrecords   5 answered, 0 bad\n" in result.out
    for row, answer in zip(records(count=5), lines(tmp_path / "out"), strict=True):
        assert answer["text"] == "".join(kjv.generate(row["prompt"], max_tokens=6, temperature=0, stop="e"))
    again = run(*words, "--json")
    report = json.loads(again.out)
    assert (report["schema"], report["answers"], report["run_records"]) == ("rwkv-cy/batch/1", 5, 0)
    assert run(*words, "--quiet").out == ""


def test_two_processes(run: Run, kjv_checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    words = ("batch", "generate", kjv_checkpoint, prompts, "-n", 3, "--block", 2, "--quiet", "--out")
    run(*words, tmp_path / "alone", "--processes", 1)
    result = run(*words, tmp_path / "out", "--processes", 2, "--threads", 1)
    assert (result.code, result.err) == (0, "")
    assert len(lines(tmp_path / "out")) == 5
    assert lines(tmp_path / "out") == lines(tmp_path / "alone")


def test_score_and_embed(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("In the beginning\nGod said\n")
    scored = run("batch", "score", kjv_checkpoint, text, "--out", tmp_path / "scores", "--no-tokens", "--window", 8)
    assert "perplexity     " in scored.out
    assert set(lines(tmp_path / "scores")[0]) == {"id", "logprob", "tokens", "predicted"}
    run("batch", "embed", kjv_checkpoint, text, "--out", tmp_path / "vectors", "--pooling", "last", "--normalize")
    assert sum(x * x for x in lines(tmp_path / "vectors")[0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_bad_records_are_warned_of(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["{", {"id": 1, "text": "x"}])
    words = ("batch", "score", kjv_checkpoint, source, "--out", tmp_path / "out")
    result = run(*words, "--max-bad", 0)
    assert result.code == 1
    assert "expected at most 0 bad records, got 1" in result.err
    result = run(*words)
    assert result.code == 0
    assert "rwkv-cy: warning: 1 bad record:" in result.err


def test_an_input_whose_records_are_all_bad_is_refused(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("prompt", 3))
    result = run("batch", "score", kjv_checkpoint, source, "--out", tmp_path / "out")
    assert (result.code, result.err) == (
        1,
        f"rwkv-cy: warning: 3 bad records: {tmp_path / 'out' / 'errors'} has the ids and the reasons\n",
    )


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_input_without_records_is_complete_and_warned_of(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, content: str
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    result = run("batch", "score", kjv_checkpoint, source, "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, f"rwkv-cy: warning: {source} has no records: nothing was answered\n")
    assert "records   0 answered, 0 bad\n" in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "--window", "8"), "--window is for score, not for generate"),
        (("score", "--normalize"), "--normalize is for embed, not for score"),
        (("embed", "--max-tokens", "0"), "--max-tokens is for generate, not for embed"),
        (("score", "--address", "auto"), "--address is for ray, not for local"),
        (("score", "--on", "ray", "--processes", "2"), "--processes is for local, not for ray"),
        (("score", "--part", "3/2"), "expected I/N such as 1/4"),
        (("sing",), "invalid choice: 'sing'"),
    ],
)
def test_wrong_command_lines(
    run: Run, kjv_checkpoint: Path, prompts: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    result = run("batch", words[0], kjv_checkpoint, prompts, "--out", tmp_path / "out", *words[1:])
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


def test_every_task_has_its_options() -> None:
    assert tuple(_OWN_OPTIONS) == TASKS


def test_an_interrupt_says_how_to_go_on(
    run: Run, kjv_checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rwkv_cy.batch.run._Job.note", interrupted)
    result = run("batch", "generate", kjv_checkpoint, prompts, "--out", tmp_path / "out")
    assert result.code == 130
    assert f"interrupted: the same command completes {tmp_path / 'out'}" in result.err


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_records_and_tokens_a_second(
    run: Run, kjv_checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwkv_cy.batch.run._PROGRESS_SECONDS", 0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    words = ("batch", "generate", kjv_checkpoint, prompts, "-n", 2, "--out")
    run(*words, tmp_path / "quiet", "--no-progress")
    assert terminal.getvalue() == ""
    run(*words, tmp_path / "out")
    drawn = terminal.getvalue()
    assert "prompts.jsonl" in drawn
    assert "5/5" in drawn
    assert " records/s" in drawn
    assert " tokens/s" in drawn
