from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cli.conftest import Run
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.formats.writers import EXPORT_FORMATS


def fields(out: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines())


def test_export_says_what_it_did(run: Run, kjv_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    result = run("export", kjv_checkpoint, target)
    assert (result.code, result.err) == (0, "")
    lines = fields(result.out)
    assert lines["format"] == "safetensors"
    assert lines["layout"] == "original"
    assert lines["architecture"] == "RWKV-4"
    assert lines["tensors"] == "114"
    assert lines["precision"] == "every number as in the source"
    assert run("export", kjv_checkpoint, target).code == 3
    assert run("export", kjv_checkpoint, target, "--force", "--quiet").out == ""


def test_numbers_that_the_layout_computes_are_not_called_those_of_the_source(
    run: Run, kjv_checkpoint: Path, tmp_path: Path
) -> None:
    result = run("export", kjv_checkpoint, tmp_path / "m.bin")
    assert "6 tensors, blocks.0.att.time_decay first, are computed" in result.err
    assert fields(result.out)["precision"] == "every number as in the source, except 6 computed tensors"


def test_the_error_of_rounding_is_shown(run: Run, small: Path, tmp_path: Path) -> None:
    result = run("export", small, tmp_path / "m.pth", "--dtype", "bf16")
    assert re.match(
        r"16 of \d+ tensors rounded: relative error \d\.\d\de-03 \(RMS\), largest \d", fields(result.out)["precision"]
    )


def test_dry_run_writes_nothing(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "m.st").write_bytes(b"older")
    result = run("export", small, tmp_path / "m.st", "--dry-run")
    assert result.code == 0
    assert "already exists; --force replaces it, if it is of the same format" in result.err
    assert "disk needed" in result.out
    assert ["1", "head", "f32", "f16", "16.4", "kB"] in [line.split() for line in result.out.splitlines()]
    assert result.out.endswith("dry run: nothing was written\n")
    assert (tmp_path / "m.st").read_bytes() == b"older"


def test_json(run: Run, small: Path, tmp_path: Path) -> None:
    planned = json.loads(run("export", small, tmp_path / "m.pth", "--dry-run", "--json").out)
    report = json.loads(run("export", small, tmp_path / "m.pth", "--json").out)
    assert report["plan"] | {"disk_free": planned["disk_free"]} == planned
    assert report["size"] == planned["disk_needed"] == (tmp_path / "m.pth").stat().st_size
    assert report["total_rounding"] is None


def test_warnings_and_errors(run: Run, small: Path, tmp_path: Path) -> None:
    run("convert", small, tmp_path / "q.h5", "--dtype", "q8")
    result = run("export", tmp_path / "q.h5", tmp_path / "m.pth")
    assert "warning: " in result.err
    assert "matrices are quantized (q8)" in result.err
    assert run("export", small, tmp_path / "m.xyz").code == 1
    assert run("export", small, tmp_path / "n.pth", "--dtype", "q8").code == 1


def test_help_has_every_format(run: Run) -> None:
    out = run("export", "--help").out
    for entry in EXPORT_FORMATS.values():
        assert entry.suffixes[0] in out if entry.suffixes else "folder" in out


def test_a_format_that_stores_a_tokenizer_says_which(run: Run, small: Path, tmp_path: Path) -> None:
    assert fields(run("export", small, tmp_path / "m", "--shard-size", "2MiB").out)["tokenizer"] == "bytes"
    assert fields(run("export", small, tmp_path / "n", "--tokenizer", "none").out)["tokenizer"] == "none"
    assert "tokenizer" not in fields(run("export", small, tmp_path / "m.pth").out)
    result = run("export", small, tmp_path / "o", "--shard-size", "9k")
    assert result.code == 2
    assert "expected a size of at least 1000000 as 4000000000, 700M or 2GiB, got '9k'" in result.err


def test_a_slash_at_the_end_means_a_folder(run: Run, small: Path, tmp_path: Path) -> None:
    assert run("export", small, f"{tmp_path}/a.b/").code == 0
    assert (tmp_path / "a.b" / "config.json").is_file()
    assert run("export", small, f"{tmp_path}/a.b").code == 3


def test_the_hash_runs_while_modules_are_imported(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[FileIdentity, ...]] = []

    def refuse(*arguments: object, source_hash: SourceHash, **options: object) -> None:
        seen.append(source_hash.files)
        raise ConfigError("stop here")

    monkeypatch.setattr("rwkv_cy.toolkit.export.export", refuse)
    assert run("export", small, tmp_path / "m.pth").code == 1
    assert seen == [(FileIdentity.of(small),)]
