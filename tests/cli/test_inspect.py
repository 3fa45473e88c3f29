"""``rwkv-cy inspect``: one screen of summary, lists on request, JSON."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.sparse import write_sparse
from checkpoints import numbers, small_parameters, write_safetensors
from cli.conftest import Run
from formats.foreign import rwkv7_parameters, safetensors_bytes
from formats.make_gguf import Gguf, rwkv7_tensors, rwkv7_values, world_like
from rwkv7_shapes import rwkv7_config
from rwkv_cy.cli import file_summary
from rwkv_cy.cli.output import config_fields
from rwkv_cy.config import Config
from rwkv_cy.storage import open_model, write_model
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.units import byte_size

#: Lines and columns of the smallest common terminal; the prompt takes a line.
LINES, COLUMNS = 23, 80


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def one_space(text: str) -> str:
    """Return a text without the alignment of its columns: a wide speed makes a column wide."""
    return re.sub(" +", " ", text)


def fields(out: str) -> dict[str, str]:
    """Return the values of the summary by name, and the rows of its tables by their first cell."""
    rows = (re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets the bytes a second of a machine with 16 GB, however busy this one is."""

    def set_bandwidth(bandwidth: float) -> None:
        sample = SimpleNamespace(start=lambda: None, result=lambda: bandwidth)
        monkeypatch.setattr("rwkv_cy.toolkit.inspect.machine_sample", lambda: sample)
        monkeypatch.setattr("rwkv_cy.toolkit.inspect.available_memory", lambda: 16 * 10**9)

    set_bandwidth(50e9)
    return set_bandwidth


@pytest.mark.parametrize("bandwidth", [1e8, 50e9, 1e15])
def test_the_summary(
    run: Run, kjv_checkpoint: Path, tmp_path: Path, machine: Callable[[float], None], bandwidth: float
) -> None:
    machine(bandwidth)
    convert(kjv_checkpoint, tmp_path / "m.h5")
    result = run("inspect", tmp_path / "m.h5")
    assert (result.code, result.err) == (0, "")
    found = fields(result.out)
    assert re.fullmatch(rf"{tmp_path}/m\.h5 \(hdf5, 2\.\d\d MB\)", found["file"])
    assert found["model"] == "RWKV-4 1.35M (L6-D128), 1,352,448 parameters in 114 tensors"
    assert found["dimensions"] == "6 layers, d_model 128, d_ffn 512, vocabulary 256"
    assert found["tokenizer"] == "bytes"
    assert found["state"] == "15.4 kB a sequence"
    assert re.fullmatch(r"kjv\.pth \(pth, \d\.\d\d MB, sha256 [0-9a-f]{12}\)", found["source"])
    assert re.fullmatch(r"rwkv-cy \S+, fingerprint [0-9a-f]{12}", found["written by"])
    assert found["embedding"].split() == ["1", "32,768", "65.5", "kB", "bf16"]
    assert re.fullmatch(r"as it is +f32 +bf16 +q8 +q6 +q4", found["loaded as"])
    assert re.fullmatch(r"2\.70 MB +5\.3\d MB +2\.70 MB +1\.4\d MB +1\.1\d MB +8\d\d kB", found["memory"])
    assert re.fullmatch(r"[\d,.]+( +[\d,.]+){5}", found["tokens/s"])
    measured = rf"{byte_size(int(bandwidth))}/s that \d+ threads? read from memory just now"
    speed = rf"^tokens/s: at most, by the {measured}; 16\.0 GB of me"
    assert re.search(speed, result.out, re.MULTILINE)
    assert "emb.weight" not in result.out
    without = run("inspect", tmp_path / "m.h5", "--no-tensors", "--no-speed").out
    assert one_space(without) == one_space(result.out[: result.out.index("\ntokens/s")] + "\n")


@pytest.mark.parametrize("size", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "-1", ""])
def test_a_header_may_state_anything_as_the_size_of_the_source(
    run: Run, small: Path, tmp_path: Path, size: str
) -> None:
    convert(small, tmp_path / "m.h5")
    with open_model(tmp_path / "m.h5") as model:

        def read(info: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
            buffer = np.empty(count, info.codec.array_dtype)
            model.read_into(info.name, buffer, start)
            return buffer

        header = replace(model.header, source={"name": "x.pth", "size": size})
        write_model(tmp_path / "hostile.h5", header, [model.info(name) for name in model.names()], read)
    result = run("inspect", tmp_path / "hostile.h5", "--no-speed")
    assert result.code == 0
    assert fields(result.out)["source"] == "x.pth"


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_it_fits_the_terminal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[float], None], columns: int
) -> None:
    """Lines are broken between words; a table that is too wide has a row below the other."""
    parameters = rwkv7_parameters()
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf([*rwkv7_values(parameters), *world_like([b"a"], 6)], rwkv7_tensors(parameters)).to_bytes())
    monkeypatch.chdir(tmp_path)
    words = set(run("inspect", "m.gguf").out.split())
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", screen := Terminal())
    file_summary.print_summary(inspect("m.gguf"))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= LINES or columns < COLUMNS
    known = {re.sub(r"[\d.,]", "", word) for word in words}
    assert {re.sub(r"[\d.,]", "", word) for word in screen.getvalue().split()} - known <= {""}


def test_statistics_are_columns(run: Run, small: Path) -> None:
    lines = run("inspect", small, "--stats").out.splitlines()
    assert re.fullmatch(r"tensor +shape +type +bytes +min +max +mean +std +zeros +NaN +Inf", lines[0])
    assert len(lines) == 2 + len(small_parameters())
    some = run("inspect", small, "--stats", "--tensors", "ln_out.*").out.splitlines()
    assert [line.split()[0] for line in some[2:]] == ["ln_out.weight", "ln_out.bias"]


def test_tensors_are_listed_on_request(run: Run, small: Path) -> None:
    lines = run("inspect", small, "--tensors").out.splitlines()
    assert re.fullmatch(r"tensor +shape +type +bytes", lines[0])
    assert [line.split()[0] for line in lines[2:]] == list(small_parameters())
    assert run("inspect", "--tensors", small).out.splitlines() == lines
    chosen = run("inspect", small, "--tensors", "blocks.*.att.key.weight").out.splitlines()
    assert [line.split()[0] for line in chosen[2:]] == ["blocks.0.att.key.weight", "blocks.1.att.key.weight"]


def test_which_tensors_json_has(run: Run, small: Path) -> None:
    def names(*options: str) -> list[str]:
        return [tensor["name"] for tensor in json.loads(run("inspect", small, "--json", *options).out)["tensors"]]

    assert names() == names("--tensors") == list(small_parameters())
    assert names("--no-tensors") == []
    assert names("--tensors", "ln_out.*") == ["ln_out.weight", "ln_out.bias"]


def test_heads_and_ranks() -> None:
    config = Config(d_model=128, num_layers=2, vocab_size=9, head_size=64, ranks={"w": 32, "g": 96}, architecture="x")
    fields = config_fields(config)
    assert fields["heads"] == "2 of size 64"
    assert fields["ranks"] == "w 32, g 96"
    assert "heads" not in config_fields(Config(d_model=128, num_layers=2))


def test_nothing_finite_has_dashes(run: Run, tmp_path: Path) -> None:
    parameters = small_parameters() | {"ln_out.bias": numbers(shape=(32,), fill=float("nan"))}
    result = run("inspect", write_safetensors(tmp_path / "s", parameters), "--stats")
    assert re.search(r"^ln_out.bias +32 +f32 +128 +- +- +- +- +0 +32 +0$", result.out, re.MULTILINE)
    assert result.err == "rwkv-cy: warning: ln_out.bias: 32 NaN and 0 Inf\n"


def test_problems_are_warnings(run: Run, tmp_path: Path) -> None:
    parameters = small_parameters() | {"blocks.0.tiny_q.weight": numbers(shape=(1, 32))}
    result = run("inspect", write_safetensors(tmp_path / "s", parameters))
    assert result.code == 0
    assert "RWKV-4a or 4b" in result.out
    assert fields(result.out)["problems"] == "1: it cannot be loaded"
    assert "tokens/s" not in result.out
    assert result.err.startswith("rwkv-cy: warning: ")
    assert result.err.count("\n") == 1


def test_metadata_is_counted_and_listed_on_request(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(safetensors_bytes(small_parameters(), {"note": "\x1b[31m" + "long" * 100, "other": "x"}))
    assert fields(run("inspect", path).out)["metadata"] == "2 entries: --metadata"
    listed = run("inspect", path, "--metadata").out
    assert listed == f"note   \\x1b[31m{'long' * 100}\nother  x\n"
    assert json.loads(run("inspect", path, "--json").out)["metadata"]["note"].endswith("long" * 100)


def test_metadata_of_a_model_file_is_its_origin_in_columns(run: Run, tmp_path: Path, kjv_checkpoint: Path) -> None:
    run("convert", kjv_checkpoint, tmp_path / "m.h5")
    lines = run("inspect", tmp_path / "m.h5", "--metadata").out.splitlines()
    assert [line[:15] for line in lines] == [
        "source name    ",
        "source format  ",
        "source sha256  ",
        "source size    ",
        "created by     ",
        "fingerprint    ",
    ]
    assert all(line[15] != " " for line in lines)


def test_standard_input_is_not_a_model(run: Run) -> None:
    result = run("inspect", "-")
    assert (result.code, "read for texts only, not for models: name a file" in result.err) == (3, True)


def test_an_adapter_and_a_single_head_are_named_in_plain_words(run: Run, tmp_path: Path) -> None:
    name = "blocks.0.att.key.lora_"
    factors = {f"{name}A": numbers(shape=(4, 32)), f"{name}B": numbers(shape=(32, 4))}
    adapter = write_safetensors(tmp_path / "a", factors)
    assert fields(run("inspect", adapter).out)["model"] == "a LoRA adapter, 256 parameters in 2 tensors"
    write_sparse(tmp_path / "m.h5", rwkv7_config(64, 2, 64, (8, 8, 8, 16)), "bf16")
    assert ", 1 head of 64, " in run("inspect", tmp_path / "m.h5").out


def test_a_file_without_metadata_says_so(run: Run, kjv_checkpoint: Path) -> None:
    result = run("inspect", kjv_checkpoint, "--metadata")
    assert (result.code, result.out) == (0, "")
    assert result.err == f"rwkv-cy: warning: {kjv_checkpoint}: the file has no metadata\n"


def test_metadata_of_a_gguf_file_is_its_own(run: Run, tmp_path: Path) -> None:
    parameters = rwkv7_parameters()
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf([*rwkv7_values(parameters), *world_like([b"a"], 6)], rwkv7_tensors(parameters)).to_bytes())
    listed = run("inspect", path, "--metadata").out
    assert {
        ("general.architecture", "rwkv7"),
        ("rwkv7.attention.layer_norm_epsilon", "1e-05"),
        ("tokenizer.ggml.tokens", "an array of 6 of type string"),
    } <= {tuple(line.split(maxsplit=1)) for line in listed.splitlines()}
    assert all("." in line.split()[0] for line in listed.splitlines())  # keys of this package have no dot


def test_a_file_without_tensors(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(safetensors_bytes({}))
    result = run("inspect", path)
    assert result.code == 0
    assert fields(result.out)["model"] == "unknown, 0 parameters in 0 tensors"
    assert run("inspect", path, "--tensors").out == ""


def test_a_pattern_that_matches_nothing(run: Run, small: Path) -> None:
    for pattern, meant in {
        "nix": "names are such as emb.weight, blocks.0.ln0.weight, blocks.0.ln0.bias",
        "att.key": "did you mean '*att.key*'?",
        "blocks.0.att.kay.weight": "did you mean 'blocks.0.att.key.weight'?",
    }.items():
        for form in ([], ["--json"], ["--quiet"], ["--stats"], ["--html", small.parent / "page.html"]):
            result = run("inspect", small, "--tensors", pattern, *form)
            assert (result.code, result.out) == (1, "")
            assert result.err.endswith(f"no tensor has a name that matches {pattern!r}; {meant}\n")
    assert not (small.parent / "page.html").exists()
    assert run("inspect", small, "--tensors", "emb.*").err == ""


def test_nothing_but_what_is_needed_is_loaded(small: Path) -> None:
    """It imports neither NumPy nor HDF5, nor kernels other than the one that samples the bandwidth."""
    probe = (
        "import sys\nfrom rwkv_cy.cli.main import main\n"
        "main(['inspect', sys.argv[1]])\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe, small], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert loaded.isdisjoint({"numpy._core", "h5py", "tqdm", "tokenizers", "rwkv_cy.text", "rwkv_cy.model"})
    kernels = {name.rpartition(".")[2] for name in loaded if name.startswith("rwkv_cy.kernels.")}
    assert kernels == {"dispatch", "_cyutility"}


def test_a_world_vocabulary_that_is_not_installed_is_told_without_tokenizers(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    write_sparse(path, rwkv7_config(64, 1, 64, (8, 8, 8, 8), vocab_size=65536), "bf16")
    probe = (
        "import sys\nsys.modules['rwkv'] = None\nfrom rwkv_cy.cli.main import main\n"
        "main(['inspect', sys.argv[1], '--no-speed'])\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe, path], capture_output=True, text=True, check=True)
    assert "the World vocabulary comes with the rwkv package, which is not installed" in done.stderr
    assert {"numpy._core", "rwkv_cy.text"}.isdisjoint(done.stdout.split())
