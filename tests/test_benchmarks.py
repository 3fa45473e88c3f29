"""What the benchmarks measure with is right: the checkpoints that they make, and the yardstick beside the model."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkv_cy
from benchmarks.checkpoints import write_checkpoint
from benchmarks.plain_numpy import PlainNumpy, read_float32
from benchmarks.plots import by_precision, by_prompt
from benchmarks.processes import anonymous_bytes, run
from rwkv_cy.sources import open_source, source_config

CONFIG = rwkv_cy.Config(d_model=16, num_layers=3, vocab_size=40)
TOKENS = [3, 1, 39, 0, 7, 7, 20]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_a_checkpoint_opens_as_the_model_that_was_asked_for(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG, dtype)
    with open_source(path) as source:
        assert source.format == "pth"
        assert source_config(source) == CONFIG
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
        yardstick = PlainNumpy(read_float32(source))
    state = yardstick.initial_state()
    for start in range(0, len(TOKENS), split):
        logits = yardstick.forward(TOKENS[start : start + split], state)
    expected, _ = rwkv_cy.load(path).forward(TOKENS)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.abs(expected).max() > 0.1


def test_memory_of_a_process() -> None:
    assert anonymous_bytes() > 1_000_000
    assert anonymous_bytes(2**22 + 1) == 0  # beyond the largest process id


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="exit code 3: no"):
        run(("/bin/sh", "-c", "echo no >&2; exit 3"))


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
