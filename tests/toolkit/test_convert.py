from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import numbers, small_parameters, write_safetensors, write_small
from formats import foreign
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.dtypes import STORAGE_TYPES, storage_type, to_storage
from rwkv_cy.errors import (
    ConfigError,
    FormatError,
    SpecError,
    StorageError,
    TokenizerError,
    UnsupportedError,
)
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.storage import open_model
from rwkv_cy.tensors.statistics import NonFinite
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.toolkit.convert import convert, plan_conversion, quantize
from rwkv_cy.units import byte_size

MATRICES = ("emb.weight", "head.weight", "blocks.1.ffn.value.weight")
VECTORS = ("ln_out.bias", "blocks.0.att.time_decay", "blocks.1.ffn.time_mix_k")


def values(source: ParameterSource, name: str) -> Any:
    info = source.info(name)
    array = np.empty(info.size, storage_type(info.dtype).array_dtype)
    source.read_into(name, array)
    return array.reshape(info.array_shape).T.reshape(-1) if info.transposed else array


def stored(path: Path, name: str) -> tuple[str, Any]:
    with open_source(path) as source:
        return source.info(name).dtype, values(source, name)


def test_the_target_holds_what_the_source_held(kjv_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.h5"
    convert(kjv_checkpoint, target)
    with open_source(kjv_checkpoint) as source, open_model(target) as model:
        assert set(model.names()) == set(source.names())
        for name in source.names():
            assert model.info(name).shape == source.info(name).shape
            assert model.info(name).dtype == source.info(name).dtype
            np.testing.assert_array_equal(values(model, name), values(source, name))


def test_the_header_says_where_it_came_from(kjv_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.h5"
    report = convert(str(kjv_checkpoint), str(target))
    content = kjv_checkpoint.read_bytes()
    with open_model(target) as model, open_source(kjv_checkpoint) as source:
        assert model.header.source == {
            "name": "kjv.pth",
            "format": "pth",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": str(len(content)),
        }
        assert model.header.architecture == "rwkv4"
        assert model.header.config["num_layers"] == 6
        assert model.header.created_by.startswith("rwkv-cy ")
        assert model.header.fingerprint == Checkpoint(source).fingerprint == report.fingerprint
        assert model.header.tokenizer is not None
        assert model.header.tokenizer.kind == "bytes"
    assert report.source_sha256 == hashlib.sha256(content).hexdigest()
    assert report.size == target.stat().st_size <= report.plan.disk_needed
    assert report.warnings == ()
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("own", STORAGE_TYPES)
@pytest.mark.parametrize("dtype", [None, *STORAGE_TYPES])
def test_matrices_get_the_type_and_vectors_keep_theirs(own: str, dtype: str | None, tmp_path: Path) -> None:
    parameters = {name: to_storage(array, "f32", own) for name, array in small_parameters().items()}
    source = write_safetensors(tmp_path / "s", parameters)
    convert(source, tmp_path / "t", dtype=dtype)
    for name in MATRICES:
        expected = to_storage(parameters[name].reshape(-1), own, dtype or own)
        found_dtype, found = stored(tmp_path / "t", name)
        assert found_dtype == (dtype or own)
        np.testing.assert_array_equal(found, expected)
    for name in VECTORS:
        found_dtype, found = stored(tmp_path / "t", name)
        assert found_dtype == own
        np.testing.assert_array_equal(found, parameters[name].reshape(-1))
    with open_model(tmp_path / "t") as model:
        assert model.header.config["compute_dtype"] == ("f64" if (dtype or own) == "f64" else "f32")


@pytest.mark.parametrize(("dtype", "expected"), [(None, "f16"), ("f32", "f32"), ("bf16", "bf16")])
def test_quantized_matrices_become_f16(tmp_path: Path, dtype: str | None, expected: str) -> None:
    source = tmp_path / "q.bin"
    source.write_bytes(foreign.rwkvcpp_bytes(small_parameters(), "q5_1"))
    report = convert(source, tmp_path / "t", dtype=dtype)
    assert stored(tmp_path / "t", "blocks.0.att.key.weight")[0] == expected
    assert stored(tmp_path / "t", "blocks.0.att.time_decay")[0] == "f32"
    types = {tensor.name: (tensor.source_dtype, tensor.dtype) for tensor in report.plan.tensors}
    assert types["blocks.0.att.key.weight"] == ("q5_1", expected)


def test_a_model_file_converts_to_another_type_and_keeps_its_tokenizer(small: Path, tmp_path: Path) -> None:
    first = convert(small, tmp_path / "a")
    second = convert(tmp_path / "a", tmp_path / "b", dtype="bf16")
    assert first.fingerprint == second.fingerprint
    with open_model(tmp_path / "a") as a, open_model(tmp_path / "b") as b:
        assert a.header.tokenizer == b.header.tokenizer
        assert b.header.source["format"] == "hdf5"
        assert b.info("head.weight").dtype == "bf16"


def test_a_folder_of_shards_is_hashed_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    parameters = small_parameters()
    names = list(parameters)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        write_safetensors(folder / file, {name: parameters[name] for name in part})
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    report = convert(folder, folder / "model.h5")
    content = b"".join((folder / file).read_bytes() for file in sorted(parts))
    assert report.source_sha256 == hashlib.sha256(content).hexdigest()
    with open_model(folder / "model.h5") as model:
        assert model.header.source["size"] == str(len(content))
        assert model.header.source["name"] == "model"


def test_tensors_of_many_blocks_are_whole(tmp_path: Path) -> None:
    """A tensor larger than the writer's block of 1 MiB, and not a multiple of it."""
    parameters = foreign.rwkv4_parameters(vocab=50_277, width=32, layers=1)
    source = write_safetensors(tmp_path / "s", parameters)
    done: list[tuple[int, int]] = []
    report = convert(source, tmp_path / "t", dtype="f16", progress=lambda *counts: done.append(counts))
    np.testing.assert_array_equal(
        stored(tmp_path / "t", "emb.weight")[1], parameters["emb.weight"].astype(np.float16).reshape(-1)
    )
    assert done[-1] == (report.plan.nbytes, report.plan.nbytes)
    assert [counts[0] for counts in done] == sorted(counts[0] for counts in done)


def test_nan_and_infinities_are_kept_and_counted(tmp_path: Path) -> None:
    bad = numbers(np.nan, np.inf, -np.inf, np.nan, np.nan, shape=(256, 32))
    source = write_small(tmp_path / "s", head__weight=bad, ln_out__bias=numbers(np.nan, shape=(32,)))
    report = convert(source, tmp_path / "t", dtype="bf16")
    assert report.nonfinite == {"head.weight": NonFinite(nan=3, inf=2), "ln_out.bias": NonFinite(nan=1, inf=0)}
    assert report.overflowed == {}
    assert "head.weight: 3 NaN and 2 infinite numbers in the source, copied unchanged" in report.warnings
    np.testing.assert_array_equal(stored(tmp_path / "t", "head.weight")[1][:2], [0x7FC0, 0x7F80])
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("dtype", "large"), [("f16", 65_520.0), ("bf16", 3.3999e38)])
def test_numbers_that_overflow_are_counted(tmp_path: Path, dtype: str, large: float) -> None:
    source = write_small(tmp_path / "s", head__weight=numbers(large, -large, np.inf, shape=(256, 32)))
    report = convert(source, tmp_path / "t", dtype=dtype)
    assert report.overflowed == {"head.weight": 2}
    assert report.warnings[-1] == (
        f"head.weight: 2 too large for {dtype}, now infinite; convert to a type with more range"
    )
    assert convert(source, tmp_path / "u").overflowed == {}


def test_a_target_that_exists_is_left_alone(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    convert(small, target, dtype="f16")
    before = target.read_bytes()
    with pytest.raises(StorageError, match="already exists; choose another name or pass --force"):
        convert(small, target)
    assert target.read_bytes() == before
    assert plan_conversion(small, target).replaces
    convert(small, target, overwrite=True)
    assert stored(target, "emb.weight")[0] == "f32"


def test_a_target_of_another_kind_is_never_replaced(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "other.safetensors"
    target.write_bytes(small.read_bytes())
    message = r"other\.safetensors is not a model file; choose another name \(are source and target swapped\?\)"
    for attempt in (convert, plan_conversion):
        with pytest.raises(StorageError, match=message):
            attempt(small, target, overwrite=True)
    assert target.read_bytes() == small.read_bytes()


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_the_source_is_never_the_target(small: Path, tmp_path: Path, link: Callable[[Path, Path], None] | None) -> None:
    target = small
    if link is not None:
        target = tmp_path / "link"
        link(target, small)
    before = small.read_bytes()
    with pytest.raises(StorageError, match="is the source itself; name another"):
        convert(small, target, overwrite=True)
    assert small.read_bytes() == before


def test_a_shard_is_no_target(tmp_path: Path) -> None:
    shard = write_small(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StorageError, match="is the source itself; name another file"):
        convert(tmp_path, shard, overwrite=True)


def test_a_target_needs_a_folder(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none: no such folder; create it first"):
        convert(small, tmp_path / "none" / "t")


def test_a_folder_is_no_target(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder; name a file in it"):
        convert(small, tmp_path)


def test_free_space_that_cannot_be_determined_is_an_error(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "statvfs", refuse)
    with pytest.raises(StorageError, match="cannot determine its free space: Permission denied; check the path"):
        plan_conversion(small, tmp_path / "t")


def test_a_plan_writes_nothing(small: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    plan = plan_conversion(small, tmp_path / "t", "f16")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert plan.source_format == "safetensors"
    assert plan.config.num_layers == 2
    assert plan.num_parameters == sum(array.size for array in small_parameters().values())
    assert plan.source_nbytes == 4 * plan.num_parameters
    matrices = sum(array.size for array in small_parameters().values() if array.ndim == 2)
    assert plan.nbytes == plan.source_nbytes - 2 * matrices
    assert plan.nbytes < plan.disk_needed < plan.disk_free
    assert not plan.replaces
    assert {tensor.kind for tensor in plan.tensors} == {"matrix", "embedding", "head", "vector"}
    written = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert written["tokenizer"] == "bytes"
    assert written["config"]["d_model"] == 32
    assert len(written["tensors"]) == len(plan.tensors)


@pytest.mark.parametrize("dtype", [None, "bf16", "q4"])
def test_what_a_plan_needs_is_what_is_reserved(
    kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    """One figure: a conversion that needs more fails, and one that needs less is not warned of."""
    reserved: list[int] = []
    reserve = Replacement.reserve

    def watch(self: Replacement, size: int) -> None:
        reserved.append(size)
        reserve(self, size)

    monkeypatch.setattr(Replacement, "reserve", watch)
    report = convert(kjv_checkpoint, tmp_path / "t", dtype=dtype)
    assert reserved == [report.plan.disk_needed]
    assert report.plan.nbytes < report.size <= report.plan.disk_needed < report.size + (1 << 19)


def test_a_plan_warns_of_a_full_disk(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail = 1
        f_frsize = real.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    plan = plan_conversion(small, tmp_path / "t")
    assert plan.warnings == (
        f"{tmp_path / 't'}: not enough disk space: need {byte_size(plan.disk_needed)}, {byte_size(real.f_frsize)} free",
    )


def test_a_disk_that_fills_leaves_nothing_behind(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "t"
    convert(small, target)
    older, before = target.read_bytes(), small.read_bytes()
    write = os.pwrite
    left = [3]

    def fill(descriptor: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(StorageError, match=r"t: not enough disk space: need [\d.]+ [kM]?B, .*No space left on device"):
        convert(small, target, overwrite=True)
    assert target.read_bytes() == older
    assert small.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.safetensors", "t"]


def test_a_source_that_changes_meanwhile_is_an_error(small: Path, tmp_path: Path) -> None:
    def touch(done: int, total: int) -> None:
        os.utime(small, ns=(1, 1))

    with pytest.raises(StorageError, match="one that changed while it was read; wait until"):
        convert(small, tmp_path / "t", progress=touch)
    assert not (tmp_path / "t").exists()


def test_an_interrupt_leaves_nothing_behind(small: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(small, tmp_path / "t", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_kill_leaves_the_older_target(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    convert(small, target, dtype="f16")
    older = target.read_bytes()
    script = (
        "import sys, time\n"
        "from rwkv_cy.toolkit.convert import convert\n"
        "def wait(done, total):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "convert(sys.argv[1], sys.argv[2], overwrite=True, progress=wait)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, small, target], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == older
    convert(small, target, overwrite=True)
    open_model(target).close()


def test_an_unknown_type_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="dtype: expected one of bf12, bf16, f16, f32, f64, q4, q4n, q6, q8, got 'q5'"
    ):
        convert(small, tmp_path / "t", dtype="q5")


def test_an_incomplete_model_is_refused(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["head.weight"]
    with pytest.raises(SpecError, match="missing head.weight"):
        convert(write_safetensors(tmp_path / "s", parameters), tmp_path / "t")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    parameters = small_parameters() | {"blocks.0.tiny_q.weight": numbers(shape=(1, 32))}
    with pytest.raises(UnsupportedError, match="found RWKV-4a or 4b, whose attention keeps every past token"):
        convert(write_safetensors(tmp_path / "s", parameters), tmp_path / "t")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"<!doctype html><title>404</title>")
    with pytest.raises(FormatError, match="an HTML page"):
        convert(tmp_path / "s", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none: cannot open it: No such file or directory; check the path"):
        convert(tmp_path / "none", tmp_path / "t")


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", vocab=100)
    with pytest.raises(TokenizerError, match="expected a tokenizer of at most 100 tokens, as the model has, got bytes"):
        convert(source, tmp_path / "t", tokenizer="bytes")


def test_a_hash_that_runs_ahead_is_taken_over(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SourceHash.ahead(small) as ahead:
        monkeypatch.setattr(SourceHash, "__init__", lambda self, files: pytest.fail("hashed a second time"))
        report = convert(small, tmp_path / "m.h5", source_hash=ahead)
    assert report.source_sha256 == hashlib.sha256(small.read_bytes()).hexdigest()


def test_a_folder_is_hashed_ahead_of_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", small_parameters())
    (folder / "config.json").write_text("{}")
    with SourceHash.ahead(folder) as ahead:
        monkeypatch.setattr(SourceHash, "__init__", lambda self, files: pytest.fail("hashed a second time"))
        report = convert(folder, tmp_path / "m.h5", source_hash=ahead)
    assert report.source_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_a_hash_of_what_the_source_was_before_is_not_believed(small: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(small.read_bytes())
    with SourceHash.ahead(small) as ahead:
        (tmp_path / "new").replace(small)
        report = convert(small, tmp_path / "m.h5", source_hash=ahead)
        assert "rwkv_cy-sha256" not in {thread.name for thread in threading.enumerate()}
    assert report.source_sha256 == hashlib.sha256(small.read_bytes()).hexdigest()


def test_a_hash_of_another_file_is_not_believed(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with SourceHash.ahead(other) as ahead:
        report = convert(small, tmp_path / "m.h5", source_hash=ahead)
    assert report.source_sha256 == hashlib.sha256(small.read_bytes()).hexdigest()


def test_quantize(kjv_checkpoint: Path, tmp_path: Path) -> None:
    report = quantize(kjv_checkpoint, tmp_path / "q.h5", "q6", tokenizer="none")
    assert {tensor.dtype for tensor in report.plan.tensors if tensor.kind in ("matrix", "head")} == {"q6"}
    with pytest.raises(ConfigError, match=r"quantize: expected a dtype of q8, q6, q4, q4n, got 'f16'; use convert"):
        quantize(kjv_checkpoint, tmp_path / "f.h5", "f16")
