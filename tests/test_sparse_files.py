"""The sparse files that large models are tried with: valid in every format, and holes but for a few pages."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sparse
from benchmarks.bench_large import main
from benchmarks.processes import run
from benchmarks.sparse import FORMATS, write_sparse
from rwkv_cy import Config
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.dtypes import STORAGE_TYPES, widen
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.toolkit.verify import verify

pytestmark = pytest.mark.usefixtures("structure_checked_here")

CONFIG = Config(
    architecture="rwkv7", d_model=128, num_layers=2, vocab_size=512, head_size=64, ranks=dict.fromkeys("wavg", 32)
)


@pytest.fixture(params=[False, True])
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small tensors as large ones are, or not."""
    if request.param:
        monkeypatch.setattr(sparse, "_COMPUTED", 0)
        monkeypatch.setattr(sparse, "_SHORT", 1)


@pytest.mark.parametrize("name", FORMATS)
def test_they_are_valid(name: str, short: None, tmp_path: Path) -> None:
    suffix, dtype = FORMATS[name]
    path = tmp_path / f"model{suffix}"
    write_sparse(path, CONFIG, dtype)
    report = verify(path)
    assert report.problems == ()
    assert report.tensors in (72, 69)  # without the value residual of layer 0
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.config == CONFIG
        source = PlainSource(checkpoint.source)
        for tensor in ("emb.weight", "blocks.1.ffn.value.weight", "head.weight"):
            info = source.info(tensor)
            buffer = np.empty(info.size, STORAGE_TYPES[info.dtype].array_dtype)
            source.read_into(tensor, buffer)
            quantized = checkpoint.source.info(tensor).codec.matrices_only or dtype not in STORAGE_TYPES
            values = widen(buffer, info.dtype, "f32")
            assert values[-1] == (0 if quantized and tensor != "emb.weight" else values[-1])
            assert np.flatnonzero(values).tolist() in ([], [info.size - 1])
            assert quantized or values[-1] == 1


def test_zeros_are_holes(tmp_path: Path) -> None:
    large = Config(d_model=1024, num_layers=1, vocab_size=65536)
    write_sparse(tmp_path / "m.safetensors", large, "f16")
    status = (tmp_path / "m.safetensors").stat()
    assert status.st_size > 290e6
    assert status.st_blocks * 512 < 10e6


def test_an_exit_code_and_the_errors() -> None:
    found = run(("/bin/sh", "-c", "echo no >&2; exit 3"), check=False)
    assert (found.code, found.errors) == (3, "no")


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sparse.LARGE_SHAPES, "7-13b", CONFIG)
    arguments = ["x", "--shapes", "7-13b", "--formats", "pth", "h5 q4", "--folder", str(tmp_path / "large")]
    monkeypatch.setattr("sys.argv", [*arguments, "--write", "convert", "verify", "export", "--write-dtype", "q4"])
    main()
    table = capsys.readouterr().out
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| 7-13b")]
    assert [(row[2].strip(), row[3].strip(), row[7].strip()) for row in rows] == [
        *(("pth", operation, "0") for operation in ("inspect", "convert --dry-run", "load", "verify")),
        *(("h5 q4", operation, "0") for operation in ("inspect", "convert --dry-run", "load")),
        ("h5 q4", "diff of layer 0", "1"),
        ("h5 q4", "verify", "0"),
        *(("h5 q4", f"{operation}, on the disk", "0") for operation in ("convert", "verify")),
        ("gguf q4", "export, on the disk", "0"),
    ]
    assert not list((tmp_path / "large").iterdir())


def test_a_named_operation_is_done_with_every_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sparse.LARGE_SHAPES, "7-70b", CONFIG)
    folder = str(tmp_path / "large")
    monkeypatch.setattr("sys.argv", ["x", "--shapes", "7-70b", "--formats", "pth", "--folder", folder])
    main()
    assert "verify" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*sys.argv, "--operations", "verify"])
    main()
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| 7-70b"))
    assert row.split("|")[3].strip() == "verify"
