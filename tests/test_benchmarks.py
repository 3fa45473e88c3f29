"""The benchmarks' tools: the checkpoints that they write, and the NumPy baseline against the model."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rwkv_cy
from benchmarks import batch_runs, bench_batch, bench_bits, bench_diff, bench_footprint, bench_isa, limits
from benchmarks.bench_quality import TYPES, RwkvCppModel, errors_of, logits_of, matrix_bits, text_quality
from benchmarks.bench_speed import Found, comparison_of, nominal_bits
from benchmarks.checkpoints import write_checkpoint
from benchmarks.energy import Counters, joules_of
from benchmarks.peers import Row
from benchmarks.plain_numpy import PlainNumpy, read_float32
from benchmarks.plots import by_batch, by_precision, by_prompt, by_size, draw
from benchmarks.processes import anonymous_bytes, run
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.dtypes import MATRIX_TYPES, STORAGE_TYPES
from rwkv_cy.kernels import dispatch
from rwkv_cy.toolkit.perplexity import perplexity

CONFIG = rwkv_cy.Config(d_model=16, num_layers=3, vocab_size=40)
TOKENS = [3, 1, 39, 0, 7, 7, 20]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_a_checkpoint_opens_as_the_requested_model(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG, dtype)
    with open_source(path) as source:
        assert source.format == "pth"
        assert Checkpoint(source).config == CONFIG
        assert {source.info(name).dtype for name in source.names()} == {dtype}
        parameters = read_float32(source)
    matrices = [value for name, value in parameters.items() if value.ndim == 2 and name != "emb.weight"]
    assert all(0.2 < value.std() * value.shape[1] ** 0.5 < 1.2 for value in matrices)
    assert list(tmp_path.iterdir()) == [path]


def test_storages_are_aligned_and_stored_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        data = path.read_bytes()
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            start = entry.header_offset + 30 + sum(data[entry.header_offset + at] for at in (26, 28))
            start += 256 * sum(data[entry.header_offset + at] for at in (27, 29))
            assert start % 64 == 0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / folder / "tiny.pth"
        write_checkpoint(path, CONFIG, seed=seed)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("split", [len(TOKENS), 1, 3])
def test_the_yardstick_agrees_with_the_model(tmp_path: Path, split: int) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG)
    with open_source(path) as source:
        baseline = PlainNumpy(read_float32(source))
    state = baseline.initial_state()
    for start in range(0, len(TOKENS), split):
        logits = baseline.forward(TOKENS[start : start + split], state)
    expected, _ = rwkv_cy.load(path).forward(TOKENS)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_memory_of_a_process() -> None:
    assert anonymous_bytes() > 1_000_000
    assert anonymous_bytes(2**22 + 1) == 0  # beyond the largest process id


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="exit code 3: no"):
        run(("/bin/sh", "-c", "echo no >&2; exit 3"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_way_from_core_to_core_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that take turns never end where there is only one."""
    monkeypatch.delenv("CC", raising=False)
    program = limits.build(tmp_path)
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    assert limits.exchange(program) == 0


def test_what_the_plots_show() -> None:
    def document(threads: int, seconds: float) -> dict[str, Any]:
        jobs = {"decode": [seconds, 9.0, seconds], "prefill 8": [seconds / 4], "prefill 1": [seconds / 2]}
        rows = [
            {"label": "rwkv_cy", "dtype": "q8", "seconds": jobs},
            {"label": "rwkv", "dtype": "f32", "seconds": jobs},
        ]
        return {"shape": "169m", "threads": threads, "rows": rows}

    documents = [document(2, 0.25), document(1, 0.5)]
    assert by_precision(documents) == {"169m": {2: {"q8": 4.0, "rwkv, f32": 4.0}, 1: {"q8": 2.0, "rwkv, f32": 2.0}}}
    assert by_prompt(documents) == {"169m": {"q8": {1: 125.0, 8: 62.5}}}
    assert by_size(documents) == {"q8": {"169m": 250.0}}
    batch = {"shape": "7-0.1b", "rows": [{"dtype": "q8", "threads": 2, "seconds": {"1": [0.5], "16": [2.0, 1.0, 1.0]}}]}
    assert by_batch([batch]) == {"7-0.1b": {"q8, 2 threads": {1: 2.0, 16: 16.0}}}


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws: pip install 'rwkv-cy[bench]'")
    seconds = {"decode": [0.1], "prefill 8": [0.01]}
    speeds = [
        {"shape": shape, "threads": 2, "rows": [{"label": "rwkv_cy", "dtype": "q8", "seconds": seconds}]}
        for shape in ("169m", "7-0.1b")
    ]
    batch = {"shape": "7-0.1b", "rows": [{"dtype": "q8", "threads": 2, "seconds": {"1": [0.5], "16": [2.0]}}]}
    paths = draw(speeds, [batch], tmp_path)
    assert [path.stem for path in paths] == [
        "decode-by-precision",
        "decode-by-size",
        "cost-by-prompt",
        "speed-by-batch",
    ]
    assert [path.stem for path in draw([], [batch], tmp_path)] == ["speed-by-batch"]


def test_energy_of_a_call(tmp_path: Path) -> None:
    """Of two packages; the counter of one begins anew, and parts of a package are not counted twice."""
    assert not Counters(tmp_path).readable
    folders = [tmp_path / name for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1")]
    for folder in folders:
        folder.mkdir()
        (folder / "energy_uj").write_text("9000000\n")
        (folder / "max_energy_range_uj").write_text("9999999\n")
    counters = Counters(tmp_path)
    assert counters.readable

    def step() -> None:
        (folders[0] / "energy_uj").write_text("9500000\n")
        (folders[2] / "energy_uj").write_text("1000000\n")

    assert joules_of(step, counters, seconds=0) == 2.5
    (folders[2] / "energy_uj").unlink()
    assert not Counters(tmp_path).readable


def test_types_compare_in_as_many_bits() -> None:
    bits = {
        4: ("q4", "Q4_0", "Q5_1"),
        8: ("q8", "q6", "Q8_0"),
        16: ("f16", "bf16", "bf16+", "bf12", "FP16"),
        32: ("f32",),
    }
    assert {dtype: nominal_bits(dtype) for dtypes in bits.values() for dtype in dtypes} == {
        dtype: size for size, dtypes in bits.items() for dtype in dtypes
    }


def test_each_type_stands_beside_the_fastest_of_others() -> None:
    def row(contender: str, dtype: str) -> Row:
        return Row(contender, contender, dtype, Path("model"))

    found = {
        row("rwkv_cy", "q4"): Found({"decode": [1.0, 2.0, 3.0], "prefill 8": [1.0, 1.0, 1.0]}),
        row("rwkv.cpp", "Q5_1"): Found({"decode": [4.0, 4.0, 4.0], "prefill 8": [9.0, 9.0, 9.0]}),
        row("rwkv.cpp", "Q4_0"): Found({"decode": [9.0, 9.0, 9.0], "prefill 8": [5.0, 5.0, 7.0]}),
        row("rwkv.cpp", "Q8_0"): Found({"decode": [0.1, 0.1, 0.1], "prefill 8": [0.1, 0.1, 0.1]}),
        row("rwkv", "f32"): Found({"decode": [0.1, 0.1, 0.1], "prefill 8": [0.1, 0.1, 0.1]}),
    }
    report = comparison_of("169m", 2, found)
    assert report.rows == [("rwkv_cy, q4", "rwkv.cpp", "2.00 (Q5_1)", "5.00 (Q4_0)")]


def test_errors_of_logits() -> None:
    exact = [np.array([[3.0, 4.0]]), np.array([[0.0, 0.0]])]
    errors = errors_of(iter([np.array([[3.0, 6.0]]), np.array([[1.0, 0.0]])]), exact)
    assert (errors.largest, errors.mean) == (2.0, 0.75)
    assert errors.relative_rms == pytest.approx((5 / 25) ** 0.5)


def test_quality_is_measured_of_every_type() -> None:
    assert set(TYPES) == {*STORAGE_TYPES, *MATRIX_TYPES, "bf16+"} - {"f64"}


def test_quality_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, rwkv_cy.Config(d_model=16, num_layers=2, vocab_size=256))
    assert matrix_bits(path) == 32
    model, text = rwkv_cy.load(path), b"In the beginning " * 20
    report = text_quality(model, text, threads=1)
    assert report.nats == perplexity(model, list(text)).nats
    assert report.bits_per_byte == pytest.approx(np.log2(report.perplexity))
    assert np.concatenate(list(logits_of(model, list(text), 1))).shape == (len(text), 256)

    class TokenByToken:
        def forward(self, tokens: list[int], state: Any) -> tuple[Any, Any]:
            assert len(tokens) == 1
            return model.forward(tokens, state)

    alone: Any = TokenByToken()
    assert text_quality(RwkvCppModel(alone), text, threads=1).nats == report.nats


def test_many_sequences_are_multiples_of_one(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG)
    found = bench_batch.measure(rwkv_cy.load(path), (2, 5), threads=1, rounds=2)
    assert {size: len(times) for size, times in found.items()} == {1: 2, 2: 2, 5: 2}
    assert bench_batch.multiples({1: [1.0, 2.0], 4: [2.0, 4.0]}) == {1: 1.0, 4: 2.0}


def test_costs_of_bits(tmp_path: Path) -> None:
    bench = bench_bits.bench_of("demo", tmp_path, 300, 1)
    types = (("rwkv_cy", "q4n q4n"), ("rwkv_cy", "q4n+ q4n+"), ("llama.cpp", "q4_0 q4_0"), ("rwkv_cy", "q8 q8"))
    found = [cost for pair in types if (cost := bench.measure(*pair)) is not None]
    assert [cost.bits for cost in found] == [4.5, 4.5, 4.5, 8.5]
    ours, calibrated, theirs, eight = found
    assert ours.token_bytes == calibrated.token_bytes < theirs.token_bytes  # of the low-rank factors
    assert 0 < eight.kl < calibrated.kl < ours.kl < theirs.kl
    assert eight.relative < ours.relative < calibrated.relative
    assert bench_bits.report_of({"demo": found}, {"q4n": 0.07}, 300).rows[0][1] == "rwkv_cy, q8"


def test_differences_of_eight_bits_side_by_side(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.pth"
    shape = {"d_model": 64, "num_layers": 2, "vocab_size": 40, "head_size": 32}
    ranks = dict.fromkeys("wavg", 32)
    write_checkpoint(checkpoint, rwkv_cy.Config(architecture="rwkv7", ranks=ranks, **shape))
    files = bench_diff.write_files(checkpoint, tmp_path)
    found = {title: {row.name: row for row in bench_diff.rows_of(checkpoint, path)} for title, path in files.items()}
    ours, gguf, rwkvcpp = (rows["blocks.*.ffn.key.weight"] for rows in found.values())
    assert [row.dtype for row in (ours, gguf, rwkvcpp)] == ["q8", "q8_0", "q8_0"]
    assert {row.nbytes for row in (ours, gguf, rwkvcpp)} == {2 * 256 * 64 // 32 * 34}
    assert (gguf.mean, gguf.largest) == (rwkvcpp.mean, rwkvcpp.largest)
    assert 0 < ours.mean < 0.002 < ours.largest < 1 / 127
    expected = rwkv_cy.diff(checkpoint, files["model file, q8"], tensors="*.ffn.key.weight").tensors
    assert ours.largest == max(one.difference.largest_relative for one in expected if one.difference)
    assert found["model file, q8"]["ln_out.weight"].largest == 0
    report = bench_diff.report_of(checkpoint, files)
    assert [row[0] for row in report.rows if row[0].endswith("ffn.key.weight")] == ["blocks.*.ffn.key.weight"]
    assert "ln_out.weight" in report.notes[1]


def test_a_batch_without_blocks_after_the_first_has_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_at_once(model: Any, source: Path, out: Path, task: Any, **options: Any) -> SimpleNamespace:
        (out / "blocks").mkdir(parents=True)
        (out / "blocks" / "0").touch()
        (out.parent / "log").write_text("1.0 100\n1.0 101\n")
        return SimpleNamespace(totals=SimpleNamespace(answers=2, generated_tokens=6))

    monkeypatch.setattr(batch_runs, "run_batch", answer_at_once)
    runs = batch_runs.Runs(tmp_path / "model", tmp_path, answer=3)
    with pytest.raises(RuntimeError, match="^expected blocks after the first of every process, got none; use more rec"):
        runs.batch(None, 2, 2)  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", bench_footprint._KINDS)
def test_a_footprint_counts_what_loading_adds(kind: str, tmp_path: Path) -> None:
    config = rwkv_cy.Config(d_model=256, num_layers=2, vocab_size=32768)
    write_checkpoint(tmp_path / "model.pth", config)
    promised = bench_footprint.promised_bytes(tmp_path / "model.pth")
    assert promised > 2 * 32768 * 256 * 4
    found = bench_footprint.measure(tmp_path / "model.pth", kind)
    # Mapped, the embedding is read where tokens need it.
    assert promised // 3 < found["added_bytes"] < 2 * promised
    assert found["load_seconds"] > 0


def test_instruction_sets_take_turns(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.pth", CONFIG)
    active = dispatch.active_instruction_set()
    sets = dispatch.available_instruction_sets()[-2:]
    found, token_bytes = bench_isa.measure(tmp_path / "model.pth", sets, 1, 4, 2, mmap=True)
    assert {name: len(rounds) for name, rounds in found.items()} == dict.fromkeys(sets, 2)
    assert token_bytes > 0
    assert dispatch.active_instruction_set() == active
