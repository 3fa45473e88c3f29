"""Whole runs: they learn, they stop and go on, and what they write is read by everything else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rwkv_cy
from pages import ROOT
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, StorageError, TokenizerError, UnsupportedError
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training import TrainingOptions, train, tune
from rwkv_cy.training.log import read_log

TEXT = "the quick brown fox jumps over the lazy dog; " * 60
SMALL = Config(32, 2, architecture="rwkv7", head_size=16)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def options(**values: Any) -> TrainingOptions:
    given = {"steps": 12, "batch_size": 2, "context": 24, "learning_rate": 1e-2, "checkpoint_every": 4} | values
    return TrainingOptions(**given)  # type: ignore[arg-type]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_log(folder / "log.jsonl")]


def numbers(path: Path) -> dict[str, npt.NDArray[Any]]:
    with rwkv_cy.load(path) as model:
        return {name: parameter.array.copy() for name, parameter in model.parameters.items()}


def test_a_new_model_learns_a_text(book: Path, tmp_path: Path) -> None:
    report = train(SMALL, book, tmp_path / "model.h5", options(steps=60), held_out=book)
    assert report.finished
    assert report.steps == 60
    assert report.tokens == 60 * 2 * 24
    found = losses(report.folder)
    assert found[0] > 5
    assert np.mean(found[-3:]) < 3
    with rwkv_cy.load(report.path) as model:
        measured = rwkv_cy.perplexity(model, book).bits_per_byte
        assert measured == pytest.approx(report.held_out, rel=1e-6)
        assert model.tokenizer is not None


@pytest.mark.parametrize("architecture", ["rwkv4", "rwkv5.2", "rwkv6", "rwkv7"])
def test_threads_do_not_change_a_bit(book: Path, tmp_path: Path, architecture: str) -> None:
    found = []
    for threads in (1, 3):
        config = Config(32, 2, architecture=architecture, head_size=0 if architecture == "rwkv4" else 16)
        report = train(config, book, tmp_path / f"{threads}.h5", options(steps=5), num_threads=threads)
        found.append((losses(report.folder), numbers(report.path)))
    (first, one), (second, other) = found
    assert first == second
    assert all(np.array_equal(one[name], other[name]) for name in one)


class StoppedError(Exception):
    pass


def stop_after(count: int) -> Any:
    def progress(step: Any) -> None:
        if step.step == count:
            raise StoppedError

    return progress


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_run_that_ended_early_goes_on(book: Path, tmp_path: Path, count: int) -> None:
    whole = train(SMALL, book, tmp_path / "whole.h5", options())
    with pytest.raises(StoppedError):
        train(SMALL, book, tmp_path / "model.h5", options(), progress=stop_after(count))
    assert not (tmp_path / "model.h5").exists()
    report = train(SMALL, book, tmp_path / "model.h5", options())
    assert losses(report.folder) == losses(whole.folder)
    one, other = numbers(whole.path), numbers(report.path)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_another_run_in_the_same_folder_is_refused(book: Path, tmp_path: Path) -> None:
    train(SMALL, book, tmp_path / "model.h5", options(steps=4))
    with pytest.raises(ConfigError, match=r"other options: seed 0 \(now 1\); pass the same options, or remove the"):
        train(SMALL, book, tmp_path / "model.h5", options(steps=4, seed=1), overwrite=True)


COMMAND = [sys.executable, "-m", "rwkv_cy", "train", "--new", "rwkv7", "--d-model", "32", "--num-layers", "1"]
SHORT = ["--batch-size", "2", "--context", "16", "--head-size", "16", "--every", "3", "--quiet"]


def command(book: Path, target: Path, steps: int) -> list[str]:
    return [*COMMAND, str(book), str(target), "--steps", str(steps), *SHORT]


def test_ctrl_c_saves_and_the_command_goes_on(book: Path, tmp_path: Path) -> None:
    words = command(book, tmp_path / "model.h5", 100_000)
    log = tmp_path / "model.h5.training" / "log.jsonl"
    with subprocess.Popen(words) as process:
        while not (log.exists() and log.read_bytes().count(b"\n") > 4):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    records = read_log(log)
    assert (log.parent / "checkpoint.safetensors").exists()
    assert (log.parent / "loss.svg").read_text().startswith("<svg")
    assert not (tmp_path / "model.h5").exists()
    with subprocess.Popen(words) as process:
        while len(read_log(log)) <= len(records) + 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert read_log(log)[: len(records)] == records
    assert [record["step"] for record in read_log(log)] == list(range(1, len(read_log(log)) + 1))


def test_a_run_that_was_killed_goes_on_to_the_same_losses(book: Path, tmp_path: Path) -> None:
    subprocess.run(command(book, tmp_path / "whole.h5", 40), check=True)
    rng = np.random.default_rng(0)
    words = command(book, tmp_path / "model.h5", 40)
    for _ in range(4):
        process = subprocess.Popen(words)
        time.sleep(0.3 + float(rng.random()))
        process.kill()
        process.wait()
    if not (tmp_path / "model.h5").exists():
        subprocess.run(words, check=True)
    found = [read_log(tmp_path / f"{name}.h5.training" / "log.jsonl") for name in ("whole", "model")]
    assert [record["loss"] for record in found[0]] == [record["loss"] for record in found[1]]
    one, other = numbers(tmp_path / "whole.h5"), numbers(tmp_path / "model.h5")
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "base.h5"
    rng = np.random.default_rng(5)
    base = rwkv_cy.LanguageModel.new(Config(32, 2, vocab_size=256, architecture="rwkv7", head_size=16), 3)
    parameters = {
        name: (value.array + 0.1 * rng.standard_normal(value.array.shape)).astype(np.float32)
        for name, value in base.parameters.items()
    }
    rwkv_cy.LanguageModel(base.config, parameters, ByteTokenizer()).save(path)
    return path


@pytest.mark.parametrize("dtype", [None, "q8"])
def test_a_tuned_state(book: Path, tmp_path: Path, model_file: Path, dtype: str | None) -> None:
    if dtype:
        rwkv_cy.convert(model_file, tmp_path / "small.h5", dtype=dtype)
        model_file = tmp_path / "small.h5"
    before = model_file.read_bytes()
    run = options(steps=30, learning_rate=1.0, final_learning_rate=0.01, weight_decay=0.0)
    report = tune(model_file, book, tmp_path / "state.pth", run, method="state")
    found = losses(report.folder)
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.1
    assert model_file.read_bytes() == before
    sample = np.frombuffer(TEXT[:24].encode(), np.uint8)
    with rwkv_cy.load(model_file) as model:
        state = model.load_state(report.path)
        assert np.nansum(model.score(sample, state=state)) > np.nansum(model.score(sample))


def test_a_lora_merges_into_what_was_trained(book: Path, tmp_path: Path, model_file: Path) -> None:
    run = options(steps=20, learning_rate=3e-3, weight_decay=0.0)
    report = tune(model_file, book, tmp_path / "lora.safetensors", run, rank=4, alpha=8, held_out=book)
    found = losses(report.folder)
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.1
    rwkv_cy.merge(model_file, report.path, tmp_path / "merged.h5", alpha=8)
    with rwkv_cy.load(tmp_path / "merged.h5") as merged:
        assert rwkv_cy.perplexity(merged, book).bits_per_byte == pytest.approx(report.held_out, rel=1e-5)


def test_all_of_a_model(book: Path, tmp_path: Path, model_file: Path) -> None:
    report = tune(model_file, book, tmp_path / "full.h5", options(steps=10), method="full", dtype="bf16")
    with rwkv_cy.load(report.path) as model:
        assert {parameter.dtype for parameter in model.parameters.values()} == {"bf16"}
    assert losses(report.folder)[-1] < losses(report.folder)[0]


def test_parameters_that_are_not_read_are_kept(book: Path, tmp_path: Path, model_file: Path) -> None:
    with rwkv_cy.load(model_file) as base:
        # Files of the authors have a value residual in the first layer, which does not use it.
        unread = {
            name.replace("blocks.1.", "blocks.0."): np.full(value.shape, 0.25, np.float32)
            for name, value in base.parameters.items()
            if name in ("blocks.1.att.v0", "blocks.1.att.v1", "blocks.1.att.v2")
        }
        assert len(unread) == 3
        original = {**base.parameters, **unread}
        rwkv_cy.LanguageModel(base.config, original, ByteTokenizer()).save(tmp_path / "original.h5")
    reports = [
        tune(path, book, tmp_path / f"full-{path.name}", options(steps=4), method="full")
        for path in (model_file, tmp_path / "original.h5")
    ]
    assert losses(reports[0].folder) == losses(reports[1].folder)
    plain, kept = (numbers(report.path) for report in reports)
    assert kept.keys() == plain.keys() | unread.keys()
    assert all(np.array_equal(kept[name], array) for name, array in (plain | unread).items())
    assert not np.array_equal(plain["emb.weight"], numbers(model_file)["emb.weight"])


def test_what_cannot_be_tuned_is_refused_before_any_work(book: Path, tmp_path: Path, model_file: Path) -> None:
    with pytest.raises(UnsupportedError, match="expected a version whose initial state can be tuned"):
        tune(ROOT / "data" / "kjv.pth", book, tmp_path / "state.pth", options(), method="state")
    with pytest.raises(ConfigError, match="expected a name that ends in .pth or .safetensors, got '.h5'"):
        tune(model_file, book, tmp_path / "state.h5", options(), method="state")
    with pytest.raises(StorageError, match="base.h5 already exists; choose another name or pass --force"):
        tune(model_file, book, model_file, options(), method="full")
    with pytest.raises(ConfigError, match="method: expected one of state, lora, full, got 'half'"):
        tune(model_file, book, tmp_path / "half.pth", options(), method="half")
    untold = rwkv_cy.LanguageModel.new(Config(32, 1, vocab_size=256, architecture="rwkv7", head_size=16), 0)
    with pytest.raises(TokenizerError, match="expected a model with a tokenizer, got none"):
        tune(untold, book, tmp_path / "lora.pth", options())
    assert not list(tmp_path.glob("*.training"))


def test_a_dry_run_says_memory_and_time(book: Path, tmp_path: Path) -> None:
    words = [word for word in command(book, tmp_path / "model.h5", 1000) if word != "--quiet"]
    done = subprocess.run([*words, "--dry-run", "--json"], check=True, capture_output=True)
    found = json.loads(done.stdout)
    assert found["learned"] > 20_000
    assert found["optimiser"] == 16 * found["learned"]
    assert found["seconds"] > 0
    assert list(tmp_path.iterdir()) == [book]
