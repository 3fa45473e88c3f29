from __future__ import annotations

import json
import re
from pathlib import Path

from checkpoints import numbers, small_parameters, write_safetensors
from cli.conftest import Run
from formats.foreign import safetensors_bytes
from rwkv_cy.cli.output import config_fields
from rwkv_cy.config import Config
from rwkv_cy.toolkit.convert import convert

FIELDS = {
    "path": str,
    "format": str,
    "architecture": str,
    "config": dict,
    "num_parameters": int,
    "dtypes": dict,
    "bytes_on_disk": int,
    "bytes_in_memory": int,
    "table_bytes": int,
    "memory": dict,
    "state_bytes": int,
    "tokenizer": str,
    "fingerprint": str,
    "created_by": str,
    "source": dict,
    "metadata": dict,
    "tensors": list,
    "left_out": dict,
    "problems": list,
}


def test_the_table(run: Run, demo_checkpoint: Path, tmp_path: Path) -> None:
    convert(demo_checkpoint, tmp_path / "m.h5")
    result = run("inspect", tmp_path / "m.h5")
    assert (result.code, result.err) == (0, "")
    lines = [re.split(r"  +", line) for line in result.out.splitlines()]
    for expected in (
        ["architecture", "RWKV-4"],
        ["layers", "6"],
        ["d_model", "128"],
        ["vocabulary", "256"],
        ["parameters", "1,352,448"],
        ["tensors", "114 bf16"],
        ["size in memory", "2.70 MB"],
        ["state", "15.4 kB per sequence"],
        ["tokenizer", "bytes"],
        ["source name", "kjv.pth"],
        ["tensor", "shape", "type", "bytes"],
        ["emb.weight", "256 x 128", "bf16", "65,536"],
        ["blocks.0.att.time_mix_k", "1 x 1 x 128", "bf16", "256"],
    ):
        assert expected in lines
    (memory,) = (line[1] for line in lines if line[0] == "memory as")
    assert re.fullmatch(r"f32 5.3\d MB, bf16 2.70 MB, q8 1.4\d MB, q6 1.1\d MB, q4 8\d\d kB", memory)


def test_statistics_are_columns(run: Run, small: Path) -> None:
    result = run("inspect", small, "--stats")
    assert re.search(r"^tensor +shape +type +bytes +min +max +mean +std +zeros +NaN +Inf$", result.out, re.MULTILINE)


def test_tensors_are_chosen(run: Run, small: Path) -> None:
    whole = run("inspect", small).out
    summary = run("inspect", small, "--no-tensors").out
    assert whole.startswith(summary)
    assert "emb.weight" not in summary
    chosen = run("inspect", small, "--tensors", "blocks.*.att.key.weight").out.splitlines()
    assert [line.split()[0] for line in chosen[-2:]] == ["blocks.0.att.key.weight", "blocks.1.att.key.weight"]
    assert chosen[-4].startswith("tensor ")
    assert json.loads(run("inspect", small, "--no-tensors", "--json").out)["tensors"] == []


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


def test_json_has_the_documented_fields(run: Run, demo_checkpoint: Path, tmp_path: Path) -> None:
    convert(demo_checkpoint, tmp_path / "m.h5")
    report = json.loads(run("inspect", tmp_path / "m.h5", "--json", "--stats").out)
    assert {name: type(value) for name, value in report.items()} == FIELDS
    assert set(report["tensors"][0]) == {"name", "shape", "dtype", "nbytes", "source_name", "statistics"}
    assert set(report["tensors"][0]["statistics"]) == {"minimum", "maximum", "mean", "std", "zeros", "nan", "inf"}
    page = (Path(__file__).parents[2] / "docs" / "commands" / "inspect.md").read_text()
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_problems_are_warnings(run: Run, tmp_path: Path) -> None:
    parameters = small_parameters() | {"blocks.0.tiny_q.weight": numbers(shape=(1, 32))}
    result = run("inspect", write_safetensors(tmp_path / "s", parameters))
    assert result.code == 0
    assert "RWKV-4a or 4b" in result.out
    assert result.err.startswith("rwkv-cy: warning: ")
    assert result.err.count("\n") == 1


def test_metadata_is_escaped_and_cut(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(safetensors_bytes(small_parameters(), {"note": "\x1b[31m" + "long" * 100}))
    result = run("inspect", path)
    assert "\x1b" not in result.out
    assert "metadata note" in result.out
    assert "... (405 characters)" in result.out
    assert json.loads(run("inspect", path, "--json").out)["metadata"]["note"].endswith("long" * 100)


def test_a_file_without_tensors(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(safetensors_bytes({}))
    result = run("inspect", path)
    assert result.code == 0
    assert re.search(r"^architecture +unknown$", result.out, re.MULTILINE)
    assert re.search(r"^tensors +none$", result.out, re.MULTILINE)


def test_a_pattern_that_matches_nothing(run: Run, small: Path) -> None:
    result = run("inspect", small, "--tensors", "nix")
    assert (result.code, result.out) == (0, run("inspect", small, "--no-tensors").out)
    assert "no tensor has a name that matches 'nix'" in result.err
    assert run("inspect", small, "--tensors", "emb.*").err == ""
