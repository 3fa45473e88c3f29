from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.toolkit.convert import convert


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_bytes(b"In the beginning God created the heaven and the earth.")
    return path


@pytest.mark.usefixtures("own_threads")
def test_a_text(run: Run, kjv_checkpoint: Path, text: Path) -> None:
    result = run("perplexity", kjv_checkpoint, text, "--json", "--threads", 1)
    assert result.code == 0
    values = json.loads(result.out)
    assert values["tokens"] == 53
    assert 1 < values["perplexity"] < 3
    plain = run("perplexity", kjv_checkpoint, text)
    assert f"perplexity        {values['perplexity']:.6g}\n" in plain.out
    assert "tokens predicted  53\n" in plain.out
    windows = json.loads(run("perplexity", kjv_checkpoint, text, "--window", 10, "--json").out)
    assert windows["perplexity"] > values["perplexity"]
    double = json.loads(run("perplexity", kjv_checkpoint, text, "--dtype", "f64", "--json").out)
    assert double["perplexity"] == pytest.approx(values["perplexity"], rel=1e-5)


def test_activations_in_bf16(run: Run, kjv_checkpoint: Path, text: Path) -> None:
    options = ("perplexity", kjv_checkpoint, text, "--dtype", "bf16", "--json")
    plain, rounded = (json.loads(run(*options, *more).out) for more in ((), ("--activations", "bf16")))
    assert rounded["perplexity"] != plain["perplexity"]
    assert rounded["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-3)
    assert run(*options, "--activations", "f16").code == 2


def test_a_text_that_is_not_there(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    result = run("perplexity", kjv_checkpoint, tmp_path / "none")
    assert result.code == 3
    assert "none: cannot read it: No such file or directory" in result.err


def test_a_text_in_place_of_its_file(run: Run, kjv_checkpoint: Path) -> None:
    result = run("perplexity", kjv_checkpoint, "In the beginning")
    assert (result.code, result.out) == (3, "")
    assert "In the beginning: no such file, and this looks like a text: name a file, or write - and pass" in result.err


def test_a_model_without_a_tokenizer(run: Run, small: Path, text: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "m.h5", tokenizer="none")
    result = run("perplexity", tmp_path / "m.h5", text)
    assert result.code == 1
    assert "the model has no tokenizer; pass one with --tokenizer" in result.err


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_a_text_from_standard_input(
    run: Run, kjv_checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(text.read_bytes()))
    assert run("perplexity", kjv_checkpoint, "-").out == run("perplexity", kjv_checkpoint, text).out


def test_a_text_that_is_too_short_is_named(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    result = run("perplexity", kjv_checkpoint, empty)
    assert result.code == 1
    assert f"{empty}: expected at least two tokens, got 0" in result.err
    monkeypatch.setattr(sys, "stdin", Stdin(b"a"))
    assert "standard input: expected at least two tokens, got 1" in run("perplexity", kjv_checkpoint, "-").err
    monkeypatch.setattr(sys, "stdin", None)
    result = run("perplexity", kjv_checkpoint, "-")
    assert result.code == 3
    assert "standard input: expected a text, got a closed stream; name a file" in result.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x89HDF\r\n\x1a\n\0\0", "expected a text, got a binary file; name a text file after MODEL"),
        ("text".encode("utf-16"), "expected a text in UTF-8, got one in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_a_text(
    run: Run,
    kjv_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    problem: str,
) -> None:
    (tmp_path / "odd").write_bytes(content)
    for command in (["perplexity", kjv_checkpoint, tmp_path / "odd"], ["quantize", kjv_checkpoint, "q.h5", "--text"]):
        result = run(*command, *([tmp_path / "odd"] if command[0] == "quantize" else []))
        assert result.code == 1
        assert result.err.startswith(f"rwkv-cy: error: {tmp_path / 'odd'}: {problem}")
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    assert run("perplexity", kjv_checkpoint, "-").code == 0
