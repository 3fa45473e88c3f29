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
from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from pages import ROOT
from rwkv_cy.architectures import another_version
from rwkv_cy.config import Config
from rwkv_cy.errors import (
    ConfigError,
    FormatError,
    NotEnoughMemoryError,
    NumericalError,
    StorageError,
    TokenizerError,
    UnsupportedError,
)
from rwkv_cy.formats.safetensors import open_safetensors
from rwkv_cy.records import replace
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.training import TrainingOptions, train, tune
from rwkv_cy.training.log import read_log
from rwkv_cy.training.tensor_file import write_tensors

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1}, r"num_layers 2 \(now 1\)"),
        ({"num_layers": 3}, r"num_layers 2 \(now 3\)"),
        ({"d_model": 64}, r"d_model 32 \(now 64\)"),
        ({"head_size": 32}, r"head_size 16 \(now 32\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    book: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    report = train(SMALL, book, tmp_path / "model.h5", options(steps=2))
    before = report.path.read_bytes()
    with pytest.raises(ConfigError, match=f"other options: {message}; pass the same options"):
        train(replace(SMALL, **changes), book, tmp_path / "model.h5", options(steps=2), overwrite=True)
    assert report.path.read_bytes() == before


def test_a_checkpoint_of_another_base_or_adapter_is_refused(book: Path, tmp_path: Path, model_file: Path) -> None:
    tune(model_file, book, tmp_path / "lora.pth", options(steps=2), rank=2)
    other, small = tmp_path / "other.h5", tmp_path / "q8.h5"
    with rwkv_cy.load(model_file) as base:
        head = base.parameters["head.weight"].array + np.float32(1)
        rwkv_cy.LanguageModel(base.config, {**base.parameters, "head.weight": head}, ByteTokenizer()).save(other)
    rwkv_cy.convert(model_file, small, dtype="q8")
    for base_path, values, message in (
        (other, {"rank": 2}, r"model '\w+' \(now '\w+'\)"),
        (small, {"rank": 2}, r"types \['f32'\] \(now \[.*'q8'\]\)"),
        (model_file, {"rank": 2, "alpha": 8}, r"alpha 32.0 \(now 8.0\)"),
        (model_file, {"rank": 4}, r"rank 2 \(now 4\)"),
        (model_file, {"method": "state"}, r"method 'lora' \(now 'state'\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(base_path, book, tmp_path / "lora.pth", options(steps=2), overwrite=True, **values)


def test_a_damaged_checkpoint_is_refused(book: Path, tmp_path: Path) -> None:
    folder = train(SMALL, book, tmp_path / "model.h5", options(steps=2)).folder
    path = folder / "checkpoint.safetensors"
    with open_safetensors(path) as source:
        note = source.metadata["training"]
        tensors = {name: np.empty(source.info(name).shape, np.float32) for name in source.names()}
    less = {name: array for name, array in tensors.items() if name != "first.emb.weight"}
    more = {**tensors, "value.other": np.zeros(3, np.float32)}
    other = {**tensors, "first.emb.weight": np.zeros((2, 3), np.float32)}
    wide = {**tensors, "first.emb.weight": np.zeros(8192)}
    for found, metadata, message in (
        (less, note, "first.emb.weight: expected .*, got none"),
        (more, note, "value.other: expected none, got"),
        (other, note, r"first.emb.weight: expected .*, got \(\(2, 3\), 'f32'\)"),
        (wide, note, r"first.emb.weight: expected .*'f32'\), got .*'f64'\)"),
        (tensors, "[" * 100_000, "expected a checkpoint of a training run, got another file"),
        (tensors, "{}", "expected a checkpoint of a training run, got another file"),
    ):
        write_tensors(path, found, metadata={"training": metadata}, overwrite=True)
        with pytest.raises(FormatError, match=message):
            train(SMALL, book, tmp_path / "model.h5", options(steps=2), overwrite=True)


def test_a_run_goes_on_with_another_number_of_steps(book: Path, tmp_path: Path) -> None:
    target, given = tmp_path / "model.h5", {"warmup_steps": 0, "final_learning_rate": 1e-4}
    train(SMALL, book, target, options(steps=4, **given))
    with pytest.warns(RuntimeWarning, match="goes on after 4 of 4 steps with the learning rates of a run of 8"):
        report = train(SMALL, book, target, options(steps=8, **given), overwrite=True)
    assert report.steps == 8
    whole = train(SMALL, book, tmp_path / "whole.h5", options(steps=8, **given))
    rates, others = (
        [record["learning_rate"] for record in read_log(run.folder / "log.jsonl")] for run in (report, whole)
    )
    assert rates[4:] == others[4:]
    assert rates[:4] != others[:4]
    with pytest.raises(ConfigError, match="expected at most 3 complete steps, got 8; pass --steps 8 or more"):
        train(SMALL, book, target, options(steps=3, **given), overwrite=True)


def test_other_checkpoints_and_measurements_do_not_change_a_run(book: Path, tmp_path: Path) -> None:
    whole = train(SMALL, book, tmp_path / "whole.h5", options())
    with pytest.raises(StoppedError):
        train(SMALL, book, tmp_path / "model.h5", options(), progress=stop_after(6))
    report = train(SMALL, book, tmp_path / "model.h5", options(checkpoint_every=5, evaluate_every=3))
    assert losses(report.folder) == losses(whole.folder)


def test_two_runs_do_not_share_a_folder(book: Path, tmp_path: Path) -> None:
    found: list[Exception] = []

    def again(step: Any) -> None:
        with pytest.raises(StorageError, match="got one that another process works on; wait for it") as error:
            train(SMALL, book, tmp_path / "other.h5", options(steps=2), folder=tmp_path / "shared")
        found.append(error.value)

    report = train(SMALL, book, tmp_path / "model.h5", options(steps=2), folder=tmp_path / "shared", progress=again)
    assert report.finished
    assert len(found) == 2


def test_a_result_does_not_replace_what_a_run_reads(book: Path, tmp_path: Path, model_file: Path) -> None:
    text = tmp_path / "text.pth"
    text.write_text(TEXT)
    for read, target in ((book, model_file), (text, text)):
        before = target.read_bytes()
        method = "full" if target is model_file else "state"
        with pytest.raises(StorageError, match="expected a new file, got one that this run reads"):
            tune(model_file, read, target, options(steps=1), method=method, overwrite=True)
        assert target.read_bytes() == before
    with pytest.raises(StorageError, match="expected a new file, got one that this run reads"):
        tune(model_file, book, text, options(steps=1), method="state", held_out=text, overwrite=True)


def test_a_model_larger_than_the_memory_is_refused(book: Path, tmp_path: Path) -> None:
    huge = Config(65536, 200, architecture="rwkv7")
    with pytest.raises(NotEnoughMemoryError, match=r"d_model 65,536, 200 layers: .* parameters take .* to train, and"):
        train(huge, book, tmp_path / "model.h5", options())
    assert list(tmp_path.iterdir()) == [book]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank: expected an integer from 1 to 4096, got 0"),
        ({"rank": 2.5}, "rank: expected an integer from 1 to 4096, got 2.5"),
        ({"alpha": 0}, "alpha: expected a number above 0, got 0"),
        ({"alpha": float("nan")}, "alpha: expected a number above 0, got nan"),
    ],
)
def test_ranks_and_alphas_out_of_range(
    book: Path, tmp_path: Path, model_file: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(model_file, book, tmp_path / "lora.pth", options(), **values)


def test_losses_that_are_not_finite_are_null_in_the_log(book: Path, tmp_path: Path, model_file: Path) -> None:
    with rwkv_cy.load(model_file) as base:
        head = np.full(base.parameters["head.weight"].array.shape, 1e38, np.float32)
        broken = rwkv_cy.LanguageModel(base.config, {**base.parameters, "head.weight": head}, ByteTokenizer())
        report = tune(broken, book, tmp_path / "lora.pth", options(steps=2))
        with pytest.raises(NumericalError, match="step 2: expected finite logits of the held-out text, got NaN"):
            tune(broken, book, tmp_path / "other.pth", options(steps=2), held_out=book)
    for line in (report.folder / "log.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=pytest.fail)
        assert record["loss"] is None
    assert report.to_dict()["loss"] is None


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


@pytest.mark.parametrize("method", ["state", "lora", "full"])
@pytest.mark.parametrize("architecture", ["rwkv6", "rwkv7"])
def test_a_base_with_quantized_factors_is_what_it_decodes_to(
    book: Path, tmp_path: Path, architecture: str, method: str
) -> None:
    """A run begins with the numbers of the blocks: a base in q8 gives the losses of the same numbers in float32."""
    config = replace(CONFIGS[architecture], vocab_size=256)
    source = write_safetensors(tmp_path / "source", random_checkpoint(config))
    rwkv_cy.convert(source, tmp_path / "q8.h5", dtype="q8", tokenizer="bytes")
    rwkv_cy.convert(tmp_path / "q8.h5", tmp_path / "f32.h5", dtype="f32")
    with rwkv_cy.load(tmp_path / "q8.h5") as model:
        assert any(parameter.transposed and parameter.dtype == "q8" for parameter in model.parameters.values())
    found = {}
    for name in ("q8", "f32"):
        target = tmp_path / f"{name}.{'h5' if method == 'full' else 'pth'}"
        target = target.with_stem(f"{name}-tuned")
        found[name] = losses(tune(tmp_path / f"{name}.h5", book, target, options(steps=3), method=method).folder)
    np.testing.assert_allclose(found["q8"], found["f32"], rtol=1e-5)


def test_a_lora_merges_into_what_was_trained(book: Path, tmp_path: Path, model_file: Path) -> None:
    run = options(steps=20, learning_rate=3e-3, weight_decay=0.0)
    report = tune(model_file, book, tmp_path / "lora.safetensors", run, rank=4, alpha=8, held_out=book)
    found = losses(report.folder)
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.1
    with open_safetensors(report.path) as source:
        assert another_version(source.metadata, Config(128, 6)) == "RWKV-7"
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
    there = tmp_path / "there.h5"
    there.touch()
    with pytest.raises(StorageError, match="there.h5 already exists; choose another name or pass --force"):
        tune(model_file, book, there, options(), method="full")
    with pytest.raises(ConfigError, match="method: expected one of state, lora, full, got 'half'"):
        tune(model_file, book, tmp_path / "half.pth", options(), method="half")
    untold = rwkv_cy.LanguageModel.new(Config(32, 1, vocab_size=256, architecture="rwkv7", head_size=16), 0)
    with pytest.raises(TokenizerError, match="expected a model with a tokenizer, got none"):
        tune(untold, book, tmp_path / "lora.pth", options())
    assert not list(tmp_path.glob("*.training"))


def test_arguments_of_another_type_are_refused(book: Path, tmp_path: Path, model_file: Path) -> None:
    options = TrainingOptions(steps=1)
    with pytest.raises(TypeError, match="train: expected a Config, got PosixPath; tune changes a model that exists"):
        train(model_file, book, tmp_path / "new.h5", options)  # type: ignore[arg-type]
    for wrong in (None, 3, {"steps": 1}):
        match = f"options: expected TrainingOptions, got {type(wrong).__name__}"
        with pytest.raises(TypeError, match=match):
            train(SMALL, book, tmp_path / "new.h5", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=match):
            tune(model_file, book, tmp_path / "new.pth", wrong)  # type: ignore[arg-type]
    assert list(tmp_path.glob("new*")) == []


def test_a_dry_run_says_memory_and_time(book: Path, tmp_path: Path) -> None:
    words = [word for word in command(book, tmp_path / "model.h5", 1000) if word != "--quiet"]
    done = subprocess.run([*words, "--dry-run", "--json"], check=True, capture_output=True)
    found = json.loads(done.stdout)
    assert found["learned"] > 20_000
    assert found["optimiser"] == 16 * found["learned"]
    assert found["seconds"] > 0
    assert list(tmp_path.iterdir()) == [book]
