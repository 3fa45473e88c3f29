from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkv_cy
from checkpoints import numbers, random_checkpoint, small_parameters, write_safetensors, write_small
from contracts.cases import CONFIGS
from formats.sources import assert_same, read_all
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.errors import ConfigError, FormatError, KernelError, SpecError, StorageError, UnsupportedError
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.writers import EXPORT_FORMATS
from rwkv_cy.formats.writers.base import TargetFile
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.tensors.statistics import NonFinite
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export, plan_export
from rwkv_cy.units import byte_size

#: Begins as files of any format, and is none.
OLDER = b"PK\x03\x04\0\0\0\0{older"


def sorted_tensors(path: Path) -> dict[str, Any]:
    """Return all tensors of a checkpoint, ordered by name."""
    return dict(sorted(read_all(open_source(path)).items()))


def test_it_is_a_function_of_the_package() -> None:
    assert rwkv_cy.export is export


def test_numbers_types_and_shapes_are_the_source_s(kjv_checkpoint: Path, tmp_path: Path) -> None:
    report = export(kjv_checkpoint, tmp_path / "t.pth")
    assert_same(sorted_tensors(tmp_path / "t.pth"), sorted_tensors(kjv_checkpoint))
    assert report.total_rounding is None
    assert report.warnings == ()
    assert report.size == (tmp_path / "t.pth").stat().st_size
    assert report.source_sha256 == hashlib.sha256(kjv_checkpoint.read_bytes()).hexdigest()
    json.dumps(report.to_dict(), allow_nan=False)


def test_matrices_get_the_type_and_vectors_keep_theirs(small: Path, tmp_path: Path) -> None:
    report = export(small, tmp_path / "t.safetensors", dtype="bfloat16")
    found = read_all(open_source(tmp_path / "t.safetensors"))
    assert {dtype for dtype, array in found.values() if array.ndim == 2} == {"bf16"}
    assert {dtype for dtype, array in found.values() if array.ndim != 2} == {"f32"}
    matrices = {name for name, (_, array) in found.items() if array.ndim == 2}
    assert report.rounding.keys() == matrices
    expected = small_parameters()["head.weight"]
    rounded = (found["head.weight"][1].astype(np.uint32) << 16).view(np.float32)
    error = report.rounding["head.weight"]
    assert error.largest == np.abs(rounded - expected).max()
    exact = np.sqrt(np.square(rounded - expected, dtype="f8").sum() / np.square(expected, dtype="f8").sum())
    assert error.relative == pytest.approx(exact, rel=1e-5)
    assert report.total_rounding is not None
    assert 0.5e-3 < report.total_rounding.relative < 4e-3


@pytest.mark.parametrize("dtype", ["q8", "q6", "q4"])
def test_quantized_matrices_are_decoded(small: Path, tmp_path: Path, dtype: str) -> None:
    convert(small, tmp_path / "q.h5", dtype=dtype)
    report = export(tmp_path / "q.h5", tmp_path / "f32.safetensors", dtype="f32")
    assert report.total_rounding is None
    (warning,) = report.warnings
    assert warning == (
        f"{tmp_path / 'q.h5'}: 15 matrices are quantized ({dtype}): the target has the decoded numbers, and the "
        "precision of the original does not come back"
    )
    expected = read_all(PlainSource(open_source(tmp_path / "q.h5")))
    found = read_all(open_source(tmp_path / "f32.safetensors"))
    for name in ("blocks.0.att.key.weight", "blocks.1.ffn.value.weight", "head.weight"):
        assert found[name][0] == "f32"
        np.testing.assert_array_equal(found[name][1], expected[name][1])
    default = export(tmp_path / "q.h5", tmp_path / "default.safetensors")
    types = {tensor.dtype for tensor in default.plan.tensors if tensor.kind in ("matrix", "head")}
    assert types == {"f16"}


@pytest.mark.parametrize("config", ["rwkv6", "rwkv7", "rwkv7a"])
def test_quantized_factors_are_decoded(tmp_path: Path, config: str) -> None:
    """To float32 in the checkpoint's orientation, so that the way back gives the same blocks."""
    source = write_safetensors(tmp_path / "source", random_checkpoint(CONFIGS[config]))
    convert(source, tmp_path / "q.h5", dtype="q4")
    with open_source(tmp_path / "q.h5") as opened:
        factors = {name for name in opened.names() if opened.info(name).dtype == "q8"}
        assert factors
    export(tmp_path / "q.h5", tmp_path / "m.pth")
    expected, found = read_all(PlainSource(open_source(tmp_path / "q.h5"))), read_all(open_source(tmp_path / "m.pth"))
    for name in factors:
        assert found[name][0] == "f32"
        np.testing.assert_array_equal(found[name][1], expected[name][1])
    convert(tmp_path / "m.pth", tmp_path / "back.h5", dtype="q8")
    with open_source(tmp_path / "q.h5") as one, open_source(tmp_path / "back.h5") as other:
        assert {name for name in factors if one.checksum(name) == other.checksum(name)} == factors


def test_compressed_matrices_are_exact(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "c.h5", dtype="bf12")
    report = export(tmp_path / "c.h5", tmp_path / "t.pth")
    assert report.warnings == ()
    assert_same(sorted_tensors(tmp_path / "t.pth"), sorted_tensors(kjv_checkpoint))


def test_tied_matrices_are_written_twice_and_listed_once(tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    folder.mkdir()
    parameters = small_parameters()
    del parameters["head.weight"]
    write_safetensors(folder / "model.safetensors", parameters)
    (folder / "config.json").write_text('{"tie_word_embeddings": true}')
    export(folder, tmp_path / "t.pth")
    found = read_all(open_source(tmp_path / "t.pth"))
    assert len(found) == len(parameters) + 1
    np.testing.assert_array_equal(found["head.weight"][1], parameters["emb.weight"])
    assert (tmp_path / "t.pth").stat().st_size > 4 * sum(array.size for _, array in found.values())


def test_bad_numbers_are_counted(tmp_path: Path) -> None:
    bad = numbers(np.nan, np.inf, 70_000.0, shape=(256, 32))
    source = write_small(tmp_path / "s", head__weight=bad)
    report = export(source, tmp_path / "t.safetensors", dtype="f16")
    assert report.nonfinite == {"head.weight": NonFinite(nan=1, inf=1)}
    assert report.overflowed == {"head.weight": 1}
    assert report.warnings == (
        "head.weight: 1 NaN and 1 infinite numbers in the source, copied unchanged",
        "head.weight: 1 too large for f16, now infinite; convert to a type with more range",
    )
    json.dumps(report.to_dict(), allow_nan=False)


def test_progress_counts_the_bytes_of_the_tensors(small: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    report = export(small, tmp_path / "t.st", progress=lambda *counts: done.append(counts))
    assert done[-1] == (report.plan.nbytes, report.plan.nbytes)
    assert [count for count, _ in done] == sorted(count for count, _ in done)


def test_a_plan_writes_nothing(small: Path, tmp_path: Path) -> None:
    plan = plan_export(small, tmp_path / "t.pth", dtype="f16")
    assert [path.name for path in tmp_path.iterdir()] == [small.name]
    assert not plan.replaces
    assert plan.nbytes < plan.disk_needed < plan.disk_free
    assert {tensor.dtype for tensor in plan.tensors if tensor.kind == "vector"} == {"f32"}
    report = export(small, tmp_path / "t.pth", dtype="f16")
    assert (tmp_path / "t.pth").stat().st_size == report.plan.disk_needed == plan.disk_needed
    assert plan_export(small, tmp_path / "t.pth").replaces
    written = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert written["files"] == [{"name": "t.pth", "size": plan.disk_needed}]
    assert written["tensors"][0]["parameters"] == ["emb.weight"]


def test_a_plan_warns_of_a_full_disk(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail = 1
        f_frsize = 1000

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    plan = plan_export(small, tmp_path / "t.pth")
    needed = byte_size(plan.disk_needed)
    assert plan.warnings == (f"{tmp_path / 't.pth'}: not enough disk space: need {needed}, 1.00 kB free",)


def test_a_full_disk_is_noticed_before_anything_is_read(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def full(descriptor: int, offset: int, size: int) -> None:
        sizes.append(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(TranslatedSource, "read_into", lambda *arguments: pytest.fail("read"))
    with pytest.raises(StorageError, match=r"t\.pth: not enough disk space: need [\d.]+ [kM]?B"):
        export(small, tmp_path / "t.pth")
    assert sizes == [plan_export(small, tmp_path / "t.pth").disk_needed]
    assert [path.name for path in tmp_path.iterdir()] == [small.name]
    with pytest.raises(StorageError, match=r"^[^.]*/t/model\.safetensors: not enough disk space: need"):
        export(small, tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == [small.name]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_error_half_way_leaves_the_older_target(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    target = tmp_path / f"t{suffix}"
    target.write_bytes(OLDER)
    read = TranslatedSource.read_into
    left = [20]

    def fail(self: TranslatedSource, name: str, buffer: Any, start: int = 0) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise FormatError(f"{name}: damaged")
        read(self, name, buffer, start)

    monkeypatch.setattr(TranslatedSource, "read_into", fail)
    with pytest.raises(FormatError, match="damaged"):
        export(small, target, overwrite=True)
    assert target.read_bytes() == OLDER
    assert sorted(path.name for path in tmp_path.iterdir()) == [small.name, target.name]


def test_a_kill_leaves_the_older_target(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.pth"
    target.write_bytes(OLDER)
    script = (
        "import sys, time\n"
        "from rwkv_cy import export\n"
        "def wait(done, total):\n"
        "    if done > total // 2:\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "export(sys.argv[1], sys.argv[2], overwrite=True, progress=wait)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, small, target], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == OLDER
    export(small, target, overwrite=True)
    open_source(target).close()


def test_a_source_that_changes_meanwhile_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="one that changed while it was read; wait until"):
        export(small, tmp_path / "t.pth", progress=lambda done, total: os.utime(small, ns=(1, 1)))
    assert not (tmp_path / "t.pth").exists()


def test_damage_that_a_checksum_shows_is_an_error(small: Path, tmp_path: Path) -> None:
    export(small, tmp_path / "s.pth")
    data = bytearray((tmp_path / "s.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "s.pth").write_bytes(data)
    with pytest.raises(FormatError, match="expected bytes with the checksum"):
        export(tmp_path / "s.pth", tmp_path / "t.safetensors")
    assert not (tmp_path / "t.safetensors").exists()


def test_a_writer_that_miscounts_is_an_error(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EXPORT_FORMATS["pth"], "files", lambda model, tensors: (TargetFile("", 10, lambda read: (b"nine char",)),)
    )
    with pytest.raises(KernelError, match=r"t\.pth: expected 10 bytes from the writer, got 9"):
        export(small, tmp_path / "t.pth")
    assert not (tmp_path / "t.pth").exists()


def test_an_existing_target_is_left_alone(small: Path, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(OLDER)
    with pytest.raises(StorageError, match="already exists; choose another name or pass --force"):
        export(small, tmp_path / "t.pth")
    assert (tmp_path / "t.pth").read_bytes() == OLDER


@pytest.mark.parametrize("content", [b"thesis", b"\x89HDF\r\n\x1a\n and a model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".st"])
def test_a_file_of_another_kind_is_not_replaced(small: Path, tmp_path: Path, suffix: str, content: bytes) -> None:
    target = tmp_path / f"t{suffix}"
    target.write_bytes(content)
    with pytest.raises(StorageError, match="t.*: expected a file of the format .* to replace, got another one; choose"):
        export(small, target, overwrite=True)
    assert target.read_bytes() == content
    target.write_bytes(b"")
    export(small, target, overwrite=True)
    export(small, target, overwrite=True)


def test_the_source_is_never_the_target(small: Path) -> None:
    before = small.read_bytes()
    with pytest.raises(StorageError, match="is the source itself; name another file"):
        export(small, small, overwrite=True)
    assert small.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "q8"},
            r"dtype: expected one of f64, f32, f16, bf16 for PyTorch \.pth, got 'q8'; choose one of them",
        ),
        ({"layout": "fla"}, r"layout: expected one of original for PyTorch \.pth, got 'fla'; choose one of them"),
        ({"layout": "keras"}, r"layout: expected one of original for .*, got 'keras'; choose one of them"),
        ({"shard_size": 0}, r"shard_size: expected a positive number of bytes, got 0"),
        ({"shard_size": "5G"}, r"shard_size: expected a positive number of bytes, got '5G'"),
        ({"format": "onnx"}, r"format: expected one of pth, .*, got 'onnx'"),
    ],
)
def test_options_that_a_format_does_not_have(
    small: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(small, tmp_path / "t.pth", **options)


def test_a_tokenizer_that_a_format_does_not_store_is_warned_of(small: Path, tmp_path: Path) -> None:
    (warning,) = plan_export(small, tmp_path / "t.pth", tokenizer="bytes").warnings
    assert warning == "tokenizer bytes: not stored, since PyTorch .pth has no place for one"
    assert plan_export(small, tmp_path / "t.pth", tokenizer="auto").warnings == ()


def test_a_type_that_is_not_a_name_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype: expected one of .* for PyTorch .pth, got 3;"):
        plan_export(small, tmp_path / "t.pth", dtype=3)  # type: ignore[arg-type]


def test_a_layout_without_the_version_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="layout fla: expected a model of RWKV-6, RWKV-7, got RWKV-4; choose"):
        export(small, tmp_path / "t.safetensors", layout="fla")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("rwkv4", "pth"), ("rwkv6", "pth"), ("rwkv6", "safetensors"), ("rwkv6", "st"), ("rwkv6", "bin")],
)
def test_epsilons_that_a_file_of_tensors_does_not_hold(tmp_path: Path, name: str, suffix: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", random_checkpoint(CONFIGS[name], optional=False))
    plain = {message for message in plan_export(tmp_path, tmp_path.parent / f"t.{suffix}").warnings if "has" in message}
    assert not any("epsilon" in message for message in plain)
    settings = {"layer_norm_epsilon": 1e-6, "group_norm_epsilon": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    warnings = plan_export(tmp_path, tmp_path.parent / f"t.{suffix}").warnings
    found = [message.partition(" has ")[2] for message in warnings if "epsilon" in message]
    expected = ["1e-05 for the epsilon of the LayerNorms, and the model 1e-06"]
    if name != "rwkv4":
        expected.append("0.00064 for the epsilon of the GroupNorm, and the model 1e-05")
    assert found == expected


def test_an_incomplete_model_is_refused(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["head.weight"]
    with pytest.raises(SpecError, match="missing head.weight"):
        export(write_safetensors(tmp_path / "s", parameters), tmp_path / "t.pth")


def test_what_is_reserved_is_what_is_written(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []
    reserve = Replacement.reserve

    def watch(self: Replacement, size: int) -> None:
        reserved.append(size)
        reserve(self, size)

    monkeypatch.setattr(Replacement, "reserve", watch)
    report = export(small, tmp_path / "t.safetensors")
    assert reserved == [report.size]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A model of 64 MB, through a matrix of 32 MB, with a fraction of that in memory at once."""
    import tracemalloc

    vocab, width = 131_072, 64
    parameters = {
        name: np.zeros((vocab, width), "<f4") if name in ("emb.weight", "head.weight") else np.full(shape, 0.5, "<f4")
        for name, shape in _shapes(width).items()
    }
    source = write_safetensors(tmp_path / "s", parameters)
    del parameters
    size = source.stat().st_size
    for name, dtype in (("t.pth", None), ("t.safetensors", "bf16"), ("t.st", None)):
        export(write_small(tmp_path / "warm"), tmp_path / name, overwrite=True)  # imports
        tracemalloc.start()
        export(source, tmp_path / name, dtype=dtype, overwrite=True)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12e6 < size / 5


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    small = {name: array.shape for name, array in small_parameters().items()}
    return {
        name: tuple(size // 32 * width if size % 32 == 0 else size for size in shape) for name, shape in small.items()
    }
