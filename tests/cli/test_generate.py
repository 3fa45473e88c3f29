from __future__ import annotations

import io
import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from checkpoints import random_model, write_small
from cli.conftest import Run
from rwkv_cy import runtime
from rwkv_cy.cli import generate as generate_command
from rwkv_cy.cli import sampling_options
from rwkv_cy.cli import search as search_command
from rwkv_cy.model.language_model import load
from rwkv_cy.model.state import State
from rwkv_cy.text import search as text_search
from rwkv_cy.text.sampling import options as text_options
from rwkv_cy.toolkit.convert import convert

SHORT = ("--max-tokens", "12", "--temperature", "0")


@pytest.fixture(autouse=True)
def default_model(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command use the model of the fixtures where none is named."""
    monkeypatch.setattr(generate_command, "demo_model_path", lambda: kjv_checkpoint)


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_the_demo_model_has_a_prompt(run: Run) -> None:
    result = run("generate", *SHORT)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("In the beginning")
    assert len(result.out) == len("In the beginning") + 12


def test_the_demo_model_takes_a_prompt(run: Run) -> None:
    assert run("generate", "--prompt", "And he said", *SHORT).out.startswith("And he said")


def test_a_model_and_a_prompt(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "m.h5")
    expected = run("generate", *SHORT).out
    assert run("generate", tmp_path / "m.h5", "In the beginning", *SHORT).out == expected
    assert run("generate", kjv_checkpoint, "--prompt", "In the beginning", *SHORT).out == expected


def test_options_may_stand_between_model_and_prompt(run: Run, kjv_checkpoint: Path) -> None:
    expected = run("generate", kjv_checkpoint, "In the", *SHORT)
    assert expected.code == 0
    for arguments in (
        [kjv_checkpoint, *SHORT, "In the"],
        [*SHORT[:2], kjv_checkpoint, *SHORT[2:], "In the"],
        [*SHORT, kjv_checkpoint, "In the"],
    ):
        assert run("generate", *arguments) == expected
    result = run("generate", kjv_checkpoint, *SHORT, "In", "the")
    assert (result.code, "unexpected argument 'the'; put quotes" in result.err) == (2, True)


def test_a_prompt_that_begins_with_a_dash(run: Run, kjv_checkpoint: Path) -> None:
    for arguments in (["--prompt=-x"], [kjv_checkpoint, "--prompt=-x"], [kjv_checkpoint, "--", "-x"]):
        result = run("generate", *SHORT, *arguments)
        assert (result.code, result.out[:2]) == (0, "-x")


@pytest.mark.parametrize("arguments", [["--prompt", "-"], ["MODEL", "-"]])
def test_the_prompt_from_standard_input(
    run: Run, kjv_checkpoint: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("generate", *SHORT).out
    monkeypatch.setattr(sys, "stdin", Stdin(b"In the beginning"))
    result = run("generate", *(kjv_checkpoint if word == "MODEL" else word for word in arguments), *SHORT)
    assert result.out == expected


def test_the_same_seed_gives_the_same_text(run: Run) -> None:
    texts = {run("generate", "--max-tokens", "24", "--seed", seed).out for seed in ("1", "1", "2")}
    assert len(texts) == 2


def test_the_text_ends_before_a_stop_string(run: Run) -> None:
    whole = run("generate", "--max-tokens", "40", "--temperature", "0").out
    stop = whole[30:33]
    assert (
        run("generate", "--max-tokens", "40", "--temperature", "0", "--stop", stop, "--stop", "\x00").out
        == (whole[: whole.index(stop, 16)])
    )


def test_another_type(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    converted = tmp_path / "q4.h5"
    assert run("convert", kjv_checkpoint, converted, "--dtype", "q4").code == 0
    options = ("--prompt", "And", "--max-tokens", "60", "--temperature", "0")
    expected = run("generate", converted, "And", *options[2:]).out
    assert run("generate", *options, "--dtype", "q4").out == expected
    assert run("generate", *options).out != expected


@pytest.mark.usefixtures("own_threads")
def test_threads(run: Run) -> None:
    assert run("generate", *SHORT, "--threads", "1").out == run("generate", *SHORT, "--threads", "3").out
    assert runtime.get_num_threads() == 3


def test_one_argument_is_the_model_and_needs_a_prompt(run: Run, kjv_checkpoint: Path) -> None:
    result = run("generate", kjv_checkpoint)
    assert result.code == 2
    assert f"'{kjv_checkpoint}' was taken as MODEL, and PROMPT is missing (- reads standard input)" in result.err
    result = run("generate", "And he said")
    assert result.code == 2
    assert "'And he said' was taken as MODEL" in result.err
    assert "for the demo model, write --prompt before a prompt" in result.err
    assert result.err.endswith("try 'rwkv-cy generate --help'\n")


def test_two_prompts_are_one_too_many(run: Run, kjv_checkpoint: Path) -> None:
    result = run("generate", kjv_checkpoint, "a", "--prompt", "b")
    assert result.code == 2
    assert "two prompts, PROMPT and --prompt; leave one out" in result.err


def test_an_empty_prompt_is_refused(run: Run, kjv_checkpoint: Path) -> None:
    result = run("generate", kjv_checkpoint, "")
    assert result.code == 1
    assert result.err.startswith("rwkv-cy: error: prompt: ")


def test_a_model_without_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    path = write_small(tmp_path / "s", vocab=300)
    result = run("generate", path, "hello", *SHORT)
    assert result.code == 1
    assert f"{path}: the model has no tokenizer; pass one with --tokenizer bytes, world or FILE" in result.err
    result = run("generate", path, "hello", *SHORT, "--tokenizer", "bytes")
    assert result.code == 0
    assert f"rwkv-cy: warning: {path}: expected a tokenizer of about 300 tokens, as the model has, got b" in result.err
    write_small(tmp_path / "small", vocab=200)
    result = run("generate", tmp_path / "small", "hello", *SHORT, "--tokenizer", "bytes")
    assert result.code == 1
    assert "expected a tokenizer of at most 200 tokens, as the model has, got bytes with 256" in result.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_model_cannot_drive_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("generate", "--prompt", "a\x1b[2J\n\tb", "--max-tokens", "0").code == 0
    assert terminal.getvalue() == "a\\x1b[2J\n\tb\n"


def test_a_pipe_gets_the_text_as_it_is(run: Run) -> None:
    assert run("generate", "--prompt", "a\x1b[2J", "--max-tokens", "0").out == "a\x1b[2J"


@pytest.mark.parametrize("options", [[], ["--best-of", "2"]])
def test_a_pipe_gets_a_prompt_that_is_not_utf_8_as_it_is(
    spawn: Run, kjv_checkpoint: Path, tmp_path: Path, options: list[str]
) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"\xff\xfe \xe4\xbd")
    with prompt.open("rb") as stdin:
        result = spawn("generate", kjv_checkpoint, "-", "-n", "3", *options, stdin=stdin, text=False)
    assert (result.code, bytes(result.out)[:5]) == (0, b"\xff\xfe \xe4\xbd")  # type: ignore[call-overload]


@pytest.mark.parametrize("options", [[], ["--best-of", "2"]])
def test_a_prompt_is_in_the_encoding_of_the_text(spawn: Run, kjv_checkpoint: Path, options: list[str]) -> None:
    result = spawn(
        "generate",
        *(kjv_checkpoint, "d\u00e9j\u00e0", "-n", "3", *options),
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        encoding="latin-1",
    )
    assert (result.code, result.out[:4]) == (0, "d\u00e9j\u00e0")


def test_rules_reach_the_sampler(run: Run) -> None:
    usual = run("generate", *SHORT).out
    first = usual[len("In the beginning")]
    banned = run("generate", *SHORT, "--ban", ord(first)).out[len("In the beginning") :]
    assert banned
    assert first not in banned
    assert run("generate", *SHORT, "--logit-bias", "90=1000").out == "In the beginning" + "Z" * 12
    once = run("generate", *SHORT, "--logit-bias", "90=1000", "--no-repeat-ngram", "1").out
    assert once.count("Z") == 1
    assert run("generate", *SHORT, "--stop-token", ord(first)).out == "In the beginning"
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


def test_an_invalid_bias(run: Run) -> None:
    result = run("generate", "--logit-bias", "90")
    assert result.code == 2
    assert "--logit-bias: expected TOKEN=X such as 10=-2.5, got '90'" in result.err
    for value in ("inf", "nan", "1e7"):
        result = run("generate", "--logit-bias", f"90={value}")
        assert result.code == 2
        assert f"--logit-bias: expected a number from -1e+06 to 1e+06, got '90={value}'" in result.err
    result = run("generate", "--stop", "")
    assert result.code == 2
    assert "--stop: expected at least one character, got an empty text" in result.err


def test_limits_are_those_of_the_library() -> None:
    """The parser repeats them, since the library needs NumPy, which help does without."""
    assert sampling_options._MOST_BIAS == text_options.MAX_SHIFT
    assert search_command._MOST == text_search._MOST


def test_short_options(run: Run) -> None:
    long = run("generate", "--prompt", "And he", "--max-tokens", "5", "--seed", "1").out
    assert run("generate", "-p", "And he", "-n", "5", "--seed", "1").out == long


def test_a_state_is_saved_and_continued(run: Run, tmp_path: Path) -> None:
    """Greedily: the state after the first part of a prompt, then the rest of it."""
    greedy = ("--temperature", "0")
    whole = run("generate", "-p", "In the beginning", "-n", "20", *greedy).out
    state = tmp_path / "s.h5"
    first = run("generate", "-p", "In the beginnin", "-n", "0", *greedy, "--save-state", state)
    assert (first.code, first.err) == (0, "")
    second = run("generate", "-p", "g", "-n", "20", *greedy, "--state", state)
    assert "In the beginnin" + second.out == whole
    assert run("generate", "-p", "g", "-n", "20", *greedy).out != second.out


def test_a_saved_state_is_that_after_the_text(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    state = tmp_path / "s.h5"
    text = run("generate", "-p", "In the", "-n", "9", "--temperature", "0", "--save-state", state).out
    assert State.load(state) == load(kjv_checkpoint).forward(list(text.encode()))[1]


def test_where_a_state_cannot_be_saved(run: Run, tmp_path: Path) -> None:
    there = tmp_path / "there"
    random_model().forward(1)[1].save(there)
    before = there.read_bytes()
    result = run("generate", *SHORT, "--save-state", there)
    assert (result.code, result.out) == (3, "")
    assert f"{there} already exists; choose another name or pass --force" in result.err
    assert there.read_bytes() == before
    assert run("generate", *SHORT, "--save-state", there, "--force").code == 0
    assert State.load(there).num_layers == 6
    result = run("generate", *SHORT, "--save-state", tmp_path / "none" / "s")
    assert (result.code, result.out) == (3, "")
    assert "none: not a folder; create it before a state is saved there" in result.err


def test_a_state_of_another_model(run: Run, tmp_path: Path) -> None:
    random_model().forward(1)[1].save(tmp_path / "s.h5")
    result = run("generate", *SHORT, "--state", tmp_path / "s.h5")
    assert result.code == 1
    assert "expected a state with the model's number of layers, 6, got 3" in result.err


def test_stats(run: Run) -> None:
    plain = run("generate", *SHORT)
    result = run("generate", *SHORT, "--stats")
    assert result.out == plain.out
    assert plain.err == ""
    assert re.fullmatch(
        r"prompt         16 tokens in [\d.]+ s, [\d.,]+ tokens/s\n"
        r"generated      12 tokens in [\d.]+ s, [\d.,]+ tokens/s\n"
        r"finish reason  length\n"
        r"loaded in      [\d.]+ s\n"
        r"memory         [\d.]+ .B own, [\d.]+ .B mapped files\n",
        result.err,
    )


def test_stats_of_a_text_that_was_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_command, "_write", Mock(side_effect=[None, None, KeyboardInterrupt]))
    result = run("generate", *SHORT, "--stats")
    assert result.code == 130
    assert "generated      3 tokens in" in result.err
    assert "finish reason  interrupted\n" in result.err


def test_the_prompt_from_a_file(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("In the beginning")
    expected = run("generate", *SHORT).out
    assert run("generate", "-f", tmp_path / "p.txt", *SHORT).out == expected
    assert run("generate", kjv_checkpoint, "--file", tmp_path / "p.txt", *SHORT).out == expected
    result = run("generate", kjv_checkpoint, "a", "--file", tmp_path / "p.txt")
    assert (result.code, "two prompts, PROMPT and --file; leave one out" in result.err) == (2, True)
    result = run("generate", "--file", tmp_path / "none.txt")
    assert (result.code, "none.txt: cannot read it: No such file" in result.err) == (3, True)


@pytest.mark.usefixtures("own_threads")
def test_more_threads_than_cores_are_warned_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cpus", lambda: 1)
    result = run("generate", *SHORT, "--threads", "2")
    assert result.code == 0
    assert result.err == "rwkv-cy: warning: 2 threads on 1 core: more threads than cores are usually slower\n"


def test_swapped_arguments(run: Run, kjv_checkpoint: Path) -> None:
    result = run("generate", "In the", kjv_checkpoint)
    assert result.code == 3
    assert f"In the: no such file, but {kjv_checkpoint} is one: are MODEL and PROMPT swapped?" in result.err
    result = run("generate", "In the " * 1000, "x" * 10_000)
    assert result.code == 3
    assert "File name too long; choose a shorter name" in result.err


def test_save_state_replaces_state_files_only(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.pth"
    victim.write_bytes(kjv_checkpoint.read_bytes())
    for force in ([], ["--force"]):
        result = run("generate", victim, "a", "-n", "3", "--save-state", victim, *force)
        assert (result.code, result.out) == (3, "")
        assert "victim.pth is not a state file; choose another name" in result.err
    assert victim.read_bytes() == kjv_checkpoint.read_bytes()
    result = run("generate", *SHORT, "--save-state", tmp_path)
    assert (result.code, result.out) == (3, "")
    assert "is a folder; name a file in it" in result.err
    result = run("generate", *SHORT, "--force")
    assert (result.code, result.out) == (2, "")
    assert "--force is for --save-state" in result.err


@pytest.mark.parametrize("prompt", [["MODEL", ""], ["MODEL"], ["MODEL", "-"]])
def test_a_state_needs_a_prompt(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, prompt: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    words = [kjv_checkpoint if word == "MODEL" else word for word in prompt]
    result = run("generate", *words, "-n", "10", "--state", tmp_path / "s.h5")
    assert (result.code, result.out) == (2, "")
    assert "--state needs a prompt" in result.err


def test_a_wrong_instruction_set_is_reported_before_the_prompt(spawn: Run) -> None:
    result = spawn("generate", *SHORT, env=os.environ | {"RWKV_CY_ISA": "foo"})
    assert (result.code, result.out) == (1, "")
    assert "RWKV_CY_ISA" in result.err


def test_json(run: Run, kjv_checkpoint: Path) -> None:
    text = run("generate", *SHORT).out
    result = run("generate", *SHORT, "--json", "--stats")
    values = json.loads(result.out)
    assert values["prompt"] + values["text"] == text
    assert values["prompt_tokens"] == list(b"In the beginning")
    assert bytes(values["tokens"]).decode() == values["text"]
    assert values["finish_reason"] == "length"
    assert values["model"].endswith("kjv.pth")
    assert min(values["load_seconds"], values["prefill_seconds"], values["decode_seconds"]) > 0
    assert values["prefill_tokens_per_second"] == pytest.approx(16 / values["prefill_seconds"])
    assert values["decode_tokens_per_second"] == pytest.approx(12 / values["decode_seconds"])
    assert values["seed"] is None
    assert "finish reason  length\n" in result.err
    assert json.loads(run("generate", kjv_checkpoint, "a", "-n", "0", "--json").out)["model"] == str(kjv_checkpoint)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--stop-token", "9", "--stop-token", "999"], "--stop-token 999: expected a token id from 0 to 255"),
        (["--ban", "256"], "--ban 256: expected a token id from 0 to 255"),
        (["--logit-bias=-1=2"], "--logit-bias -1: expected a token id from 0 to 255"),
    ],
)
def test_token_ids_are_named_with_their_option(run: Run, option: list[str], message: str) -> None:
    result = run("generate", *SHORT, *option)
    assert (result.code, result.out) == (1, "")
    assert f"rwkv-cy: error: {message}, as the vocabulary has\n" in result.err


def test_a_long_prompt_has_a_bar(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    plain = run("generate", "--prompt", "a" * 600, "-n", "3", "-q").out
    assert terminal.getvalue() == ""
    assert run("generate", "--prompt", "a" * 600, "-n", "3", "--no-progress", *SHORT[2:]).code == 0
    assert terminal.getvalue() == ""
    assert run("generate", "--prompt", "a" * 600, "-n", "3").out[:600] == plain[:600]
    assert "prompt: " in terminal.getvalue()
    assert run("generate", "--prompt", "short").code == 0


def test_an_interrupt_saves_the_state_of_the_text_so_far(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    written = generate_command._write

    def write(text: str, terminal: bool) -> None:
        written(text, terminal)
        pieces.append(text)
        if len(pieces) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(generate_command, "_write", write)
    state = tmp_path / "s.h5"
    result = run("generate", "-p", "In the", "--temperature", "0", "--save-state", state)
    assert result.code == 130
    assert result.err == (
        f"rwkv-cy: warning: interrupted: {state} has the state after the text so far\nrwkv-cy: interrupted\n"
    )
    text = ("In the" + "".join(pieces)).encode()
    assert State.load(state) == load(kjv_checkpoint).forward(list(text))[1]


def test_a_checkpoint_is_not_a_tokenizer(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    result = run("generate", *SHORT, "--tokenizer", kjv_checkpoint)
    assert result.code == 1
    assert f"{kjv_checkpoint}: expected a tokenizer.json or a vocabulary such as rwkv_vocab_v20230424.txt" in result.err
    assert "got a binary file" in result.err


def test_an_interrupt_while_the_prompt_is_read_saves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate_command, "progress_bar", lambda *_, **__: nullcontext(interrupt))
    result = run("generate", "-p", "a" * 600, "--save-state", tmp_path / "s.h5")
    assert (result.code, (tmp_path / "s.h5").exists()) == (130, False)
    assert "warning: interrupted while the prompt was read: no state is saved\n" in result.err
