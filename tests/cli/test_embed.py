from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from cli.conftest import Run
from rwkv_cy.cli.embed import POOLINGS as CHOICES
from rwkv_cy.config import Config
from rwkv_cy.model.hidden import POOLINGS
from rwkv_cy.model.language_model import LanguageModel

LINES = ["In the beginning", "And the earth", "x"]


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def numbers(text: str) -> np.ndarray:
    """Return printed vectors as float32."""
    return np.array([line.split() for line in text.splitlines()], np.float32)


def test_the_choices_are_those_of_the_model() -> None:
    assert CHOICES == POOLINGS


@pytest.mark.parametrize("options", [{}, {"pooling": "last"}, {"normalize": True}])
def test_a_vector_is_printed_to_the_last_bit(
    run: Run, kjv_checkpoint: Path, kjv: LanguageModel, options: dict[str, object]
) -> None:
    words = [word for name, value in options.items() for word in (f"--{name}", *(() if value is True else (value,)))]
    result = run("embed", kjv_checkpoint, "In the beginning", *words)
    assert (result.code, result.err) == (0, "")
    expected = kjv.embed("In the beginning", **options)  # type: ignore[arg-type]
    assert numbers(result.out).tobytes() == expected.tobytes()


def test_lines(
    run: Run, kjv_checkpoint: Path, kjv: LanguageModel, sentences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("embed", kjv_checkpoint, "-f", sentences, "--lines")
    assert numbers(result.out).tobytes() == kjv.embed(LINES).tobytes()
    monkeypatch.setattr(sys, "stdin", Stdin("\r\n".join(LINES).encode()))
    assert run("embed", kjv_checkpoint, "-", "--lines") == result
    whole = run("embed", kjv_checkpoint, "-f", sentences)
    assert numbers(whole.out).tobytes() == kjv.embed(sentences.read_bytes()).tobytes()


def test_more_lines_than_are_in_memory_at_once(
    run: Run, kjv_checkpoint: Path, kjv: LanguageModel, tmp_path: Path
) -> None:
    lines = [f"line {i}" for i in range(150)]
    (tmp_path / "t").write_text("\n".join(lines))
    assert run("embed", kjv_checkpoint, "-f", tmp_path / "t", "--lines", "-o", tmp_path / "v.npy").code == 0
    assert np.load(tmp_path / "v.npy").tobytes() == kjv.embed(lines).tobytes()


def test_an_array(run: Run, kjv_checkpoint: Path, kjv: LanguageModel, sentences: Path, tmp_path: Path) -> None:
    target = tmp_path / "v.npy"
    command = ("embed", kjv_checkpoint, "-f", sentences, "--lines", "--output", target)
    result = run(*command)
    assert (result.code, result.out, result.err) == (0, "", "")
    vectors = np.load(target)
    assert vectors.shape == (3, kjv.config.d_model)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, kjv.embed(LINES))
    again = run(*command)
    assert (again.code, again.out) == (3, "")
    assert f"{target} already exists; choose another name or pass --force" in again.err
    assert run(*command, "--force", "--pooling", "last").code == 0
    np.testing.assert_array_equal(np.load(target), kjv.embed(LINES, pooling="last"))
    assert run("embed", kjv_checkpoint, "a", "-o", tmp_path / "one.npy", "--dtype", "f64").code == 0
    one = np.load(tmp_path / "one.npy")
    assert (one.shape, one.dtype) == ((1, kjv.config.d_model), np.float64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npy", "sentences.txt", "v.npy"]


def test_json(run: Run, kjv_checkpoint: Path, kjv: LanguageModel, sentences: Path) -> None:
    report = json.loads(run("embed", kjv_checkpoint, "-f", sentences, "--lines", "--json", "--normalize").out)
    vectors = report.pop("vectors")
    assert report == {
        "schema": "rwkv-cy/embed/1",
        "model": str(kjv_checkpoint),
        "pooling": "mean",
        "normalized": True,
        "d_model": kjv.config.d_model,
        "count": 3,
    }
    assert [entry["text"] for entry in vectors] == LINES
    found = np.array([entry["vector"] for entry in vectors], np.float32)
    assert found.tobytes() == kjv.embed(LINES, normalize=True).tobytes()


def test_only_arrays_are_replaced(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.npy"
    victim.write_bytes(b"a letter")
    result = run("embed", kjv_checkpoint, "a", "-o", victim, "--force")
    assert (result.code, result.out) == (3, "")
    assert "victim.npy is not a NumPy array, which --force would replace; choose another name" in result.err
    assert victim.read_bytes() == b"a letter"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "-o", "v.txt"], 2, "--output: expected a file name that ends in .npy, got 'v.txt'"),
        (["a", "-o", "none/v.npy"], 3, "none: not a folder; create it before vectors are written there"),
        (["a", "-o", "v.npy", "--json"], 2, "--json is printed, and --output writes an array; leave one out"),
        (["a", "--force"], 2, "--force is for --output; leave it out"),
        (["a", "--pooling", "max"], 2, "argument --pooling: invalid choice: 'max'"),
        (["a\n\nb", "--lines"], 1, "text: line 2: expected a text, got an empty line; remove it"),
        (["", "--lines"], 1, "text: line 1: expected a text, got an empty line; remove it"),
        ([""], 1, "text: expected at least one token, got an empty text"),
        ([], 2, "TEXT is missing"),
    ],
)
def test_what_is_refused(
    run: Run,
    kjv_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("embed", kjv_checkpoint, *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err


def test_a_folder_of_that_name(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "v.npy").mkdir()
    result = run("embed", kjv_checkpoint, "a", "-o", tmp_path / "v.npy")
    assert (result.code, "v.npy is a folder; name a file in it for --output" in result.err) == (3, True)


def test_a_vector_with_nan_is_no_file(run: Run, tmp_path: Path) -> None:
    config = Config(d_model=24, num_layers=2, vocab_size=256)
    parameters = random_checkpoint(config)
    parameters["emb.weight"][ord("x"), 3] = np.nan
    path = write_safetensors(tmp_path / "m.safetensors", parameters)
    (tmp_path / "t").write_text("a\nb\nxx\n")
    result = run("embed", path, "-f", tmp_path / "t", "--lines", "-o", tmp_path / "v.npy")
    assert result.code == 1
    assert "t: line 3: token 120 at 0: its row of emb.weight is not finite" in result.err
    assert not (tmp_path / "v.npy").exists()
    (tmp_path / "t").write_text("a\n" * 70 + "x\n")
    result = run("embed", path, "-f", tmp_path / "t", "--lines", "-o", tmp_path / "v.npy")
    assert "t: line 71: token 120 at 0" in result.err
    assert "error: text: token 120 at 0" in run("embed", path, "x").err
