from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from checkpoints import write_small
from cli.conftest import Run
from rwkv_cy import runtime
from rwkv_cy.toolkit.convert import convert

SHORT = ("--max-tokens", "12", "--temperature", "0")


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_the_demo_model_has_a_prompt(run: Run) -> None:
    result = run("generate", *SHORT)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("In the beginning")
    assert len(result.out) == len("In the beginning") + 12 + 1


def test_the_demo_model_takes_a_prompt(run: Run) -> None:
    assert run("generate", "--prompt", "And he said", *SHORT).out.startswith("And he said")


def test_a_model_and_a_prompt(run: Run, demo_checkpoint: Path, tmp_path: Path) -> None:
    convert(demo_checkpoint, tmp_path / "m.h5")
    expected = run("generate", *SHORT).out
    assert run("generate", tmp_path / "m.h5", "In the beginning", *SHORT).out == expected
    assert run("generate", demo_checkpoint, "--prompt", "In the beginning", *SHORT).out == expected


def test_a_prompt_that_begins_with_a_dash(run: Run, demo_checkpoint: Path) -> None:
    for arguments in (["--prompt=-x"], [demo_checkpoint, "--prompt=-x"], [demo_checkpoint, "--", "-x"]):
        result = run("generate", *SHORT, *arguments)
        assert (result.code, result.out[:2]) == (0, "-x")


@pytest.mark.parametrize("arguments", [["--prompt", "-"], ["MODEL", "-"]])
def test_the_prompt_from_standard_input(
    run: Run, demo_checkpoint: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("generate", *SHORT).out
    monkeypatch.setattr(sys, "stdin", Stdin(b"In the beginning"))
    result = run("generate", *(demo_checkpoint if word == "MODEL" else word for word in arguments), *SHORT)
    assert result.out == expected


def test_bytes_that_are_no_text_are_a_prompt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"\xff\xfe"))
    result = run("generate", "--prompt", "-", "--max-tokens", "1")
    assert result.code == 0
    assert result.out.startswith("\ufffd\ufffd")


def test_the_same_seed_gives_the_same_text(run: Run) -> None:
    texts = {run("generate", "--max-tokens", "24", "--seed", seed).out for seed in ("1", "1", "2")}
    assert len(texts) == 2


def test_the_text_ends_before_a_stop_string(run: Run) -> None:
    whole = run("generate", "--max-tokens", "40", "--temperature", "0").out
    stop = whole[30:33]
    assert run("generate", "--max-tokens", "40", "--temperature", "0", "--stop", stop, "--stop", "\x00").out == (
        whole[: whole.index(stop, 16)] + "\n"
    )


def test_another_type(run: Run, demo_checkpoint: Path, tmp_path: Path) -> None:
    converted = tmp_path / "q4.h5"
    assert run("convert", demo_checkpoint, converted, "--dtype", "q4").code == 0
    options = ("--prompt", "And", "--max-tokens", "60", "--temperature", "0")
    expected = run("generate", converted, "And", *options[2:]).out
    assert run("generate", *options, "--dtype", "q4").out == expected
    assert run("generate", *options).out != expected


@pytest.mark.usefixtures("own_threads")
def test_threads(run: Run) -> None:
    assert run("generate", *SHORT, "--threads", "1").out == run("generate", *SHORT, "--threads", "3").out
    assert runtime.get_num_threads() == 3


def test_one_argument_is_the_model_and_needs_a_prompt(run: Run, demo_checkpoint: Path) -> None:
    result = run("generate", demo_checkpoint)
    assert result.code == 2
    assert "expected a prompt after MODEL, or - to read it from standard input" in result.err
    result = run("generate", "And he said")
    assert result.code == 2
    assert "a prompt for the demo model goes behind --prompt" in result.err


def test_two_prompts_are_one_too_many(run: Run, demo_checkpoint: Path) -> None:
    result = run("generate", demo_checkpoint, "a", "--prompt", "b")
    assert result.code == 2
    assert "expected one prompt, got PROMPT and --prompt; leave one out" in result.err


def test_an_empty_prompt_is_refused(run: Run, demo_checkpoint: Path) -> None:
    result = run("generate", demo_checkpoint, "")
    assert result.code == 1
    assert result.err.startswith("rwkv-cy: error: prompt: ")


def test_a_model_without_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    path = write_small(tmp_path / "s", vocab=300)
    result = run("generate", path, "hello", *SHORT)
    assert result.code == 1
    assert f"{path}: expected a model with its tokenizer, got one without; name it with --tokenizer" in result.err
    assert run("generate", path, "hello", *SHORT, "--tokenizer", "bytes").code == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_model_cannot_drive_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("generate", "--prompt", "a\x1b[2J\n\tb", "--max-tokens", "0").code == 0
    assert terminal.getvalue() == "a\\x1b[2J\n\tb\n"


def test_a_pipe_gets_the_text_as_it_is(run: Run) -> None:
    assert run("generate", "--prompt", "a\x1b[2J", "--max-tokens", "0").out == "a\x1b[2J\n"


def test_rules_reach_the_sampler(run: Run) -> None:
    usual = run("generate", *SHORT).out
    first = usual[len("In the beginning")]
    banned = run("generate", *SHORT, "--ban", ord(first)).out[len("In the beginning") :]
    assert banned
    assert first not in banned
    assert run("generate", *SHORT, "--logit-bias", "90=1000").out == "In the beginning" + "Z" * 12 + "\n"
    once = run("generate", *SHORT, "--logit-bias", "90=1000", "--no-repeat-ngram", "1").out
    assert once.count("Z") == 1
    assert run("generate", *SHORT, "--stop-token", ord(first)).out == "In the beginning\n"
    sampled = ("--max-tokens", 40, "--seed", 1, "--temperature", 2)
    texts = {
        run("generate", *sampled, *rule).out
        for rule in (
            [],
            ["--order", "rwkv"],
            ["--presence-penalty", 3],
            ["--frequency-penalty", 3],
            ["--frequency-penalty", 3, "--penalty-decay", 0.5],
            ["--repetition-penalty", 5],
            ["--repetition-penalty", 5, "--repetition-window", 2],
        )
    }
    assert len(texts) == 7


def test_a_bias_that_is_none(run: Run) -> None:
    result = run("generate", "--logit-bias", "90")
    assert result.code == 2
    assert "--logit-bias: expected TOKEN=X such as 10=-2.5, got '90'" in result.err
