"""The report of a benchmark, and errors; nothing here depends on speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rwkv7_shapes import rwkv7_config
from rwkv56_shapes import SMALL_6
from rwkv_cy.errors import ConfigError, StorageError
from rwkv_cy.kernels.dispatch import active_instruction_set
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit import bench as bench_module
from rwkv_cy.toolkit.bench import Measurement, Spread, benchmark

SHORT: dict[str, Any] = {"prefill": 3, "decode": 2, "rounds": 3}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", [None, "q8"])
def test_a_report(kjv_checkpoint: Path, mmap: bool, dtype: str | None) -> None:
    report = benchmark(kjv_checkpoint, threads=[2, 1], mmap=mmap, dtype=dtype, **SHORT)
    model = load(kjv_checkpoint, dtype=dtype)
    matrices = [value for name, value in model.parameters.items() if value.array.nbytes > 1000 and name != "emb.weight"]
    matrices = [value for value in matrices if len(value.shape) == 2]
    assert report.matrix_bytes == sum(value.array.nbytes for value in matrices)
    assert report.low_rank_bytes == 0
    assert report.state_bytes == 6 * 5 * 128 * 4
    assert report.token_bytes == report.matrix_bytes + 2 * report.state_bytes
    assert report.dtypes == (dtype or "bf16",)
    assert (report.path, report.architecture, report.parameters) == (str(kjv_checkpoint), "RWKV-4", 1_352_448)
    assert (report.mmap, report.instruction_set) == (mmap, active_instruction_set())
    assert (report.prefill_tokens, report.decode_tokens, report.rounds) == (3, 2, 3)
    assert report.load_seconds > 0
    assert [result.threads for result in report.results] == [2, 1]
    for result in report.results:
        for spread in (result.decode, result.prefill, result.read, result.share):
            assert 0 < spread.lowest <= spread.median <= spread.highest
    assert json.loads(json.dumps(report.to_dict()))["results"][1]["decode"]["median"] > 0


def test_one_number_of_threads_by_default(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "get_num_threads", lambda: 3)
    assert [result.threads for result in benchmark(kjv_checkpoint, **SHORT).results] == [3]


def test_low_rank_factors_and_the_state_count() -> None:
    """Of RWKV-7, ranks 8, 8, 8 and 16 of w, a, v (not in the first layer) and g."""
    config = rwkv7_config(96, 3, 32, (8, 8, 8, 16))
    run = Measurement(LanguageModel.new(config, 0), 1, 1)
    assert run.low_rank_bytes == 4 * 2 * 96 * (3 * (8 + 8 + 16) + 2 * 8)
    assert run.matrix_bytes == 4 * (3 * (4 * 96 * 96 + 2 * 4 * 96 * 96) + 100 * 96)
    assert run.state_bytes == 4 * 3 * (2 * 96 + 3 * 32 * 32)
    assert run.token_bytes == run.stream.nbytes == run.matrix_bytes + run.low_rank_bytes + 2 * run.state_bytes


def test_factors_of_three_axes_count() -> None:
    """Of RWKV-6, ranks 16 of each of the five mixes and 8 of the decay."""
    run = Measurement(LanguageModel.new(SMALL_6["6, C 96 with heads of 32"], 0), 1, 1)
    assert run.low_rank_bytes == 4 * 2 * 96 * 3 * (5 * 16 + 8)
    assert run.matrix_bytes == 4 * (3 * (6 * 96 * 96 + 2 * 4 * 96 * 96) + 100 * 96)
    assert run.token_bytes == run.stream.nbytes == run.matrix_bytes + run.low_rank_bytes + 2 * run.state_bytes


def test_progress_counts_rounds(kjv_checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    benchmark(kjv_checkpoint, threads=[1], progress=lambda done, total: seen.append((done, total)), **SHORT)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_single_number_of_threads(kjv_checkpoint: Path) -> None:
    assert [result.threads for result in benchmark(kjv_checkpoint, threads=2, **SHORT).results] == [2]


def test_where_the_system_does_not_tell_of_memory(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "process_memory", lambda: None)
    report = benchmark(kjv_checkpoint, threads=[1], **SHORT)
    assert report.anonymous_bytes is report.file_bytes is None


def test_numbers_from_seconds(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round's speed is that of its median token; the report's, of the median round."""
    run = Measurement(load(kjv_checkpoint), 4, 3)
    times = iter([0, 2, 0, 1, 3, 10, 11, 15, 20, 21, 30])  # the prompt; then reading and a token, three times
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: next(times))
    found = run.round(1)
    assert (found.prefill, found.read, found.decode) == (0.5, 1, 4)
    assert found.share == 1 / 4
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefill": 0}, "prefill: expected a number from 1 to 1048576, got 0"),
        ({"decode": -1}, "decode: expected a number from 1 to 1048576, got -1"),
        ({"rounds": 1001}, "rounds: expected a number from 1 to 1000, got 1001"),
        ({"threads": []}, r"threads: expected at least one number of threads, each once, got \[\]"),
        ({"threads": [1, 2, 1]}, r"threads: expected at least one number of threads, each once, got \[1, 2, 1\]"),
        ({"threads": [0]}, "num_threads: expected a number of threads from 1 to 1024, got 0"),
        ({"dtype": "f8"}, "f8"),
    ],
)
def test_nonsense_is_refused(kjv_checkpoint: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark(kjv_checkpoint, **{**SHORT, **arguments})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none: cannot open it"):
        benchmark(tmp_path / "none", **SHORT)
