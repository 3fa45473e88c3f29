from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy import runtime
from rwkv_cy.cli.bench import _figure

SHORT = ("--prefill", 3, "--decode", 2, "--rounds", 2)


def test_json(run: Run, kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cpus", lambda: 2)
    result = run("bench", kjv_checkpoint, "--threads", "1,2", "--no-mmap", "--dtype", "q8", "--json", *SHORT)
    assert (result.code, result.err) == (0, "")
    values = json.loads(result.out)
    assert set(values) == {
        "schema",
        "path",
        "architecture",
        "parameters",
        "dtypes",
        "mmap",
        "activations",
        "instruction_set",
        "matrix_bytes",
        "low_rank_bytes",
        "state_bytes",
        "token_bytes",
        "load_seconds",
        "anonymous_bytes",
        "file_bytes",
        "prefill_tokens",
        "decode_tokens",
        "rounds",
        "results",
    }
    assert (values["dtypes"], values["mmap"], values["rounds"]) == (["q8"], False, 2)
    assert [found["threads"] for found in values["results"]] == [1, 2]
    for found in values["results"]:
        assert set(found) == {"threads", "decode", "prefill", "read", "share"}
        assert set(found["share"]) == {"median", "lowest", "highest"}


def test_activations(run: Run, kjv_checkpoint: Path) -> None:
    result = run("bench", kjv_checkpoint, "--threads", "1", "--activations", "bf16", "--json", *SHORT)
    assert json.loads(result.out)["activations"] == "bf16"


def test_lines(run: Run, kjv_checkpoint: Path) -> None:
    result = run("bench", kjv_checkpoint, "--threads", "2", *SHORT)
    assert result.code == 0
    lines = [re.split(r"  +", line.strip()) for line in result.out.splitlines()]
    assert [line[0] for line in lines[:5]] == ["model", "weights", "bytes per token", "kernels", "loaded in"]
    assert lines[-3] == ["threads", "decode tokens/s", "prefill 3 tokens/s", "read GB/s", "decode % of read"]
    assert lines[-1][0] == "2"
    assert all(re.fullmatch(r"[\d.,]+ \([\d.,]+ to [\d.,]+\)", cell) for cell in lines[-1][1:])
    assert "RWKV-4, 1,352,448 parameters" in result.out
    assert "2.65 MB (matrices 2.62 MB, state 15.4 kB; the state is read and written)" in result.out


def test_more_threads_than_cores_are_warned_of(run: Run, kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available_cpus", lambda: 2)
    result = run("bench", kjv_checkpoint, "--threads", "2,3", *SHORT)
    assert result.err == "rwkv-cy: warning: 3 threads on 2 cores: more threads than cores are usually slower\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "argument -t/--threads: expected an integer from 1 to 1024, got '0'"),
        (("--threads", "1,x"), "argument -t/--threads: expected an integer from 1 to 1024, got 'x'"),
        (("--threads", "2,2"), "argument -t/--threads: expected each number of threads once, got '2,2'"),
        (("--prefill", "0"), "argument --prefill: expected a positive integer, got '0'"),
        (("--rounds", "-1"), "argument --rounds: expected a positive integer, got '-1'"),
        (("--dtype", "q5"), "argument --dtype: unknown type 'q5'; did you mean q6?"),
        (("--dtype", "x"), "argument --dtype: invalid choice: 'x'"),
    ],
)
def test_nonsense_is_an_error_of_usage(
    run: Run, kjv_checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("bench", kjv_checkpoint, *arguments)
    assert result.code == 2
    assert message in result.err


def test_figures_have_no_exponents() -> None:
    assert [_figure(value) for value in (0.30486, 58.154, 999.97, 18_496.4)] == ["0.3049", "58.15", "1,000", "18,496"]


def test_hours_of_computing_are_refused(run: Run, kjv_checkpoint: Path) -> None:
    result = run("bench", kjv_checkpoint, "--rounds", "1001")
    assert result.code == 1
    assert "rounds: expected a number from 1 to 1000, got 1001" in result.err


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    result = run("bench", tmp_path / "none")
    assert result.code == 3
    assert "none: cannot open it" in result.err


@pytest.mark.parametrize("command", [("generate", "--prompt", "In"), ("perplexity",)])
def test_memory_where_models_run(run: Run, kjv_checkpoint: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    name, *rest = command
    text = tmp_path / "text"
    text.write_bytes(b"In the beginning")
    more = [text] if name == "perplexity" else ["--max-tokens", 8, "--seed", 1]
    outputs = {run(name, kjv_checkpoint, *rest, *more, *memory).out for memory in ((), ("--no-mmap",))}
    assert len(outputs) == 1
    assert outputs != {""}


def test_markdown(run: Run, kjv_checkpoint: Path) -> None:
    out = run("bench", kjv_checkpoint, "--prefill", 8, "--decode", 2, "--rounds", 1, "--threads", 1, "--markdown").out
    header, rule, row = out.splitlines()
    assert header == "| threads | decode tokens/s | prefill 8 tokens/s | read GB/s | decode % of read |"
    assert rule == "|---:|---:|---:|---:|---:|"
    assert row.startswith("| 1 | ")
