"""The commands train and tune: what they refuse before any work, and what a dry run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Run

NEW = ("--new", "rwkv7", "--d-model", 32, "--head-size", 16, "--num-layers", 1, "--no-progress")
SHORT = ("--steps", 2, "--batch-size", 2, "--context", 16)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("the quick brown fox jumps over the lazy dog; " * 20)
    return path


@pytest.fixture
def model(run: Run, book: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    assert run("train", *NEW, book, path, *SHORT).code == 0
    return path


def test_a_dry_run_checks_the_files(run: Run, book: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    binary, wide = tmp_path / "model.h5", tmp_path / "wide.txt"
    binary.write_bytes(b"\x89HDF\0\0")
    wide.write_text("In the beginning", "utf-16")
    target = tmp_path / "new.h5"
    for data, more, message in (
        (tmp_path / "missing.txt", (), "missing.txt: cannot read it"),
        (empty, (), "empty.txt: expected at least two tokens of text, got 0"),
        (tmp_path, (), "expected a text file, got a directory"),
        (binary, (), "model.h5: expected a text, got a binary file; name a text, or JSONL"),
        (wide, (), "wide.txt: expected a text in UTF-8, got one in UTF-16; save it as UTF-8"),
        (book, ("--held-out", binary), "model.h5: expected a text, got a binary file"),
        (book, ("--held-out", empty), "empty.txt: expected at least two tokens of text, got 0"),
        (book, ("--held-out", tmp_path), "expected a text file, got a directory"),
    ):
        result = run("train", *NEW, data, target, *SHORT, *more, "--dry-run")
        assert message in result.err
        assert result.code != 0
        assert result.out == ""
    result = run("train", *NEW, book, tmp_path / "none" / "new.h5", *SHORT, "--dry-run")
    assert "expected an existing folder" in result.err


def test_a_run_of_one_step_has_no_plot(run: Run, book: Path, tmp_path: Path) -> None:
    target = tmp_path / "one.h5"
    result = run("train", *NEW, book, target, *SHORT[2:], "--steps", 1)
    assert result.out.splitlines()[-1].split() == ["log", f"{target}.training"]
    assert not (tmp_path / "one.h5.training" / "loss.svg").exists()
    result = run("train", *NEW, book, target, *SHORT[2:], "--steps", 2, "--force")
    assert result.out.splitlines()[-1].split() == ["log", "and", "plot", f"{target}.training"]
    assert (tmp_path / "one.h5.training" / "loss.svg").exists()


def test_a_dry_run_takes_documents_as_long_as_they_are(run: Run, book: Path, tmp_path: Path) -> None:
    """Short examples were taken for sequences of the whole context: hours in place of minutes."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "a short one"}\n' * 5)
    result = run("train", *NEW, lines, tmp_path / "new.h5", *SHORT, "--dry-run")
    assert result.out.endswith(" for 2 steps of 2 sequences of 10 tokens (mean)\n")
    result = run("train", *NEW, lines, tmp_path / "new.h5", *SHORT, "--sampling", "windows", "--dry-run")
    assert result.out.endswith(" for 2 steps of 2 sequences of 16 tokens\n")
    lines.write_text('{"txt": "a short one"}\n')
    result = run("train", *NEW, lines, tmp_path / "new.h5", *SHORT, "--dry-run")
    assert (result.code, result.out) == (1, "")
    assert "line 1: expected an object like" in result.err


def test_a_dry_run_says_which_weights_are_frozen(run: Run, book: Path, tmp_path: Path, model: Path) -> None:
    for method, name, frozen in (("state", "state.pth", True), ("lora", "lora.pth", True), ("full", "full.h5", False)):
        result = run("tune", model, book, "--method", method, "--output", tmp_path / name, *SHORT, "--dry-run")
        assert result.code == 0
        assert ("frozen weights" in result.out) == frozen
        assert "learned numbers with their gradients and means" in result.out
        assert " 0 B" not in result.out
    result = run("tune", model, book, "--method", "state", "--output", tmp_path / "state.h5", *SHORT, "--dry-run")
    assert "expected a name that ends in .pth or .safetensors" in result.err


def test_options_out_of_range_have_the_names_of_the_command_line(run: Run, book: Path, tmp_path: Path) -> None:
    for option, value, message in (
        ("--every", 10**10, "--every: expected 1 to 1,000,000,000, got 10,000,000,000"),
        ("--warmup", 10**10, "--warmup: expected 0 to 1,000,000,000, got 10,000,000,000"),
        ("--context", 2_000_000, "--context: expected 2 to 1,048,576, got 2,000,000"),
        ("--batch-size", 10**6, "--batch-size: expected 1 to 65,536, got 1,000,000"),
        ("--seed", 10**400, "--seed: expected 0 to 9,223,372,036,854,775,807, got 10,000,"),
        ("--learning-rate", 99, "--learning-rate: expected 0 to 10, got 99"),
    ):
        result = run("train", *NEW, book, tmp_path / "new.h5", *SHORT, option, value)
        assert message in result.err
        assert result.code == 1


def test_settings_of_another_run_have_the_names_of_the_command_line(
    run: Run, book: Path, tmp_path: Path, model: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("another text, longer than the context is; " * 4)
    for data, more, message in (
        (book, ("--batch-size", 3), "--batch-size 2 (now 3)"),
        (book, ("--warmup", 5), "--warmup 10 (now 5)"),
        (book, ("--learning-rate", 0.5), "--learning-rate 0.001 (now 0.5)"),
        (book, ("--num-layers", 2), "--num-layers 1 (now 2)"),
        (book, ("--head-size", 8), "--head-size 16 (now 8)"),
        (book, ("--new", "rwkv6"), "--new 'rwkv7' (now 'rwkv6')"),
        (other, (), "DATA '"),
    ):
        result = run("train", *NEW, data, model, *SHORT, *more, "--force")
        assert f"got one with other options: {message}" in result.err
        assert result.code == 1
    words = ("tune", model, book, "--output", tmp_path / "lora.pth", *SHORT, "--no-progress", "--force")
    assert run(*words, "--method", "lora").code == 0
    for more, message in (
        (("--method", "lora", "--rank", 3), "--rank 8 (now 3)"),
        (("--method", "lora", "--alpha", 3), "--alpha 32.0 (now 3.0)"),
        (("--method", "state"), "--method 'lora' (now 'state')"),
    ):
        assert message in run(*words, *more).err


def test_heads_of_a_version_without_them(run: Run, book: Path, tmp_path: Path) -> None:
    words = ("--new", "rwkv4", "--d-model", 32, "--num-layers", 1, *SHORT)
    for more in ((), ("--dry-run",)):
        result = run("train", *words, "--head-size", 16, book, tmp_path / "new.h5", *more)
        assert result.err.endswith("--head-size: RWKV-4 does not have heads, and 16 was given; leave it out\n")
        assert result.code == 1
        assert list(tmp_path.iterdir()) == [book]


def test_more_steps_are_a_warning(run: Run, book: Path, model: Path) -> None:
    longer = ("--steps", 4, *SHORT[2:])
    assert "already exists; choose another name or pass --force" in run("train", *NEW, book, model, *longer).err
    result = run("train", *NEW, book, model, *longer, "--force")
    assert result.code == 0
    assert "warning: " in result.err
    assert "goes on after 2 of 2 steps with the learning rates of a run of 4" in result.err
    assert "4 of 4" in result.out


def test_what_is_for_adapters_only(run: Run, book: Path, tmp_path: Path, model: Path) -> None:
    for option, value in (("--rank", 4), ("--alpha", 16)):
        words = ("--method", "state", "--output", tmp_path / "state.pth", option, value)
        result = run("tune", model, book, *words, *SHORT)
        assert f"{option}: expected --method lora, got --method state; leave it out" in result.err
        assert result.code == 1


def test_a_model_of_another_suffix_is_warned_of(run: Run, book: Path, tmp_path: Path, model: Path) -> None:
    words = ("--method", "full", "--output", tmp_path / "full.pth", *SHORT, "--no-progress")
    assert "full.pth: will be an HDF5 model file despite its name" in run("tune", model, book, *words).err


def test_a_text_as_a_state(run: Run, book: Path, model: Path) -> None:
    result = run("generate", model, "the", "--state", book, "--max-tokens", 1)
    assert "expected a state file, or a tuned state as .pth or safetensors, got a text that begins" in result.err
    assert result.code == 1
