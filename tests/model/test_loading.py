"""Location of the weights of a loaded model: mapped from the file, or read into memory."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bits import with_flip
from checkpoints import numbers, write_small
from rwkv_cy.errors import ConfigError, FormatError, NumericalError, StorageError
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.model import loading
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.tensors import converter
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.toolkit.convert import convert


def _canonical(parameter: Parameter) -> Any:
    return parameter.array.T if parameter.transposed else parameter.array


def test_resident_the_same(kjv: LanguageModel, kjv_checkpoint: Path) -> None:
    read = load(kjv_checkpoint, mmap=False)
    assert (read.forward([72, 101])[0] == kjv.forward([72, 101])[0]).all()
    assert read.parameters["head.weight"].array.flags.writeable


@pytest.mark.parametrize("dtype", [None, "f32", "f64", "q8"])
def test_resident_weights_are_in_one_arena(
    kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    """Aligned to cache lines, without overlap, and the same for each number of threads and size of pieces."""
    convert(kjv_checkpoint, tmp_path / "m.h5")
    mapped = load(kjv_checkpoint, dtype=dtype)
    monkeypatch.setattr(converter, "_PIECE_BYTES", 1 << 12)
    monkeypatch.setattr(converter, "_PIECE_NUMBERS", 1 << 12)
    for path, threads in ((kjv_checkpoint, 1), (kjv_checkpoint, 3), (tmp_path / "m.h5", 3)):
        monkeypatch.setattr(loading, "get_num_threads", lambda threads=threads: threads)
        resident = load(path, dtype=dtype, mmap=False)
        spans = []
        for name, parameter in resident.parameters.items():
            assert _canonical(parameter).tobytes() == _canonical(mapped.parameters[name]).tobytes()
            assert parameter.array.ctypes.data % 64 == 0
            spans.append((parameter.array.ctypes.data, parameter.array.nbytes))
        assert all(at + size <= after for (at, size), (after, _) in pairwise(sorted(spans)))
        assert spans[-1][0] + spans[-1][1] - spans[0][0] < sum(size for _, size in spans) + 64 * len(spans)
        assert resident.forward([72, 101])[0].tobytes() == mapped.forward([72, 101])[0].tobytes()


def test_a_mapped_load_compares_the_checksums_of_vectors_alone(kjv_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    convert(kjv_checkpoint, path)
    sound = path.read_bytes()
    datasets = json.loads(sound[sound.rindex(b'{"format"') : -4096].rstrip(b"\0 "))["datasets"]
    offsets = {entry["path"]: entry["offset"] for entry in datasets}
    for name, mapped in (("ln1.weight", False), ("att.key.weight", True)):
        path.write_bytes(with_flip(sound, offsets[f"parameters/blocks.0/{name}"], 1))
        for mmap in (True, False):
            with nullcontext() if mmap and mapped else pytest.raises(FormatError, match=f"{name}: the checksum"):
                load(path, mmap=mmap).close()


def test_a_tokenizer_that_is_not_there_is_told_first(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_parameters", lambda *arguments: pytest.fail("the weights were read"))
    with pytest.raises(StorageError, match="none: cannot be read"):
        load(kjv_checkpoint, mmap=False, tokenizer="none")


def test_a_file_system_that_cannot_map(kjv: LanguageModel, kjv_checkpoint: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(FileBytes, "view", lambda *span: None)
    assert (load(kjv_checkpoint).forward([72, 101])[0] == kjv.forward([72, 101])[0]).all()


def test_a_file_cut_while_it_is_read(kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a thread is the error of the call, whatever the others do meanwhile."""
    path = tmp_path / "m.pth"
    shutil.copy(kjv_checkpoint, path)
    monkeypatch.setattr(converter, "_PIECE_BYTES", 1 << 12)
    monkeypatch.setattr(loading, "get_num_threads", lambda: 3)
    check_memory = loading._check_memory

    def cut(*arguments: Any) -> None:
        check_memory(*arguments)
        os.truncate(path, 1_000_000)

    monkeypatch.setattr(loading, "_check_memory", cut)
    with pytest.raises(
        FormatError,
        match=r"m\.pth: expected 2731579 bytes \(2.73 MB\), got 1000000 bytes \(1.00 MB\): the file was truncated",
    ):
        load(path, mmap=False)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_error_of_a_job_is_lost(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Also an IndexError, which an empty queue raises too: unwritten weights would be zeros."""

    def fail(*arguments: Any) -> None:
        raise IndexError("of a job")

    monkeypatch.setattr(converter, "to_storage", fail)
    monkeypatch.setattr(converter, "_PIECE_BYTES", 1 << 12)
    monkeypatch.setattr(loading, "get_num_threads", lambda: threads)
    with pytest.raises(IndexError, match="of a job"):
        load(kjv_checkpoint, dtype="f64")


@pytest.mark.parametrize("mmap", [True, False])
def test_a_closed_model_computes_no_more(kjv_checkpoint: Path, mmap: bool) -> None:
    with load(kjv_checkpoint, mmap=mmap) as model:
        logits, state = model.forward([72, 101])
    again = load(kjv_checkpoint)
    assert (again.forward([72, 101])[0] == logits).all()
    for call in (lambda: model.forward(1, state), lambda: model.forward_batch([1])):
        with pytest.raises(ConfigError, match="LanguageModel: expected an open model, got one that was closed"):
            call()
    model.close()
    assert model.parameters["emb.weight"].array.shape == (256, 128)


def test_numbers_that_overflow_are_told(tmp_path: Path) -> None:
    """As convert tells them; the type of the source holds them, and so does bf16."""
    source = write_small(tmp_path / "s", head__weight=numbers(1e6, -1e6, shape=(256, 32)))
    message = r"head\.weight: 2 too large for f16, now infinite; convert to a type with more range"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        load(source, dtype="f16")
    assert Path(caught[0].filename) == Path(__file__)
    for dtype in (None, "bf16", "bf12"):
        load(source, dtype=dtype)


def test_what_overflowed_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s", head__weight=numbers(1e6, -1e6, shape=(256, 32)))
    with pytest.warns(RuntimeWarning, match="too large for f16"):
        model = load(source, dtype="f16")
    remedy = "verify the model file, or load the original in a type with more range than f16"
    with pytest.raises(NumericalError, match=f"ln_out or head gave NaN or infinity; {remedy}"):
        model.forward([1])
    broken = write_small(tmp_path / "b", head__weight=numbers(np.nan, shape=(256, 32)))
    with pytest.raises(NumericalError, match="ln_out or head gave NaN or infinity; verify the model file$"):
        load(broken).forward([1])


@pytest.mark.filterwarnings("error")
def test_a_decay_beyond_the_range_of_an_exponential_is_one_that_forgets(tmp_path: Path) -> None:
    logits = [
        load(write_small(tmp_path / f"{decay}", blocks__0__att__time_decay=np.full(32, decay, np.float32)))
        .forward([1, 2, 3])[0]
        .tobytes()
        for decay in (80, 88.8, 1000)
    ]
    assert len(set(logits)) == 1


@pytest.mark.parametrize(("name", "ours"), [("float16", "f16"), ("Q8", "q8"), ("FP64", "f64")])
def test_other_spellings_of_a_type(name: str, ours: str, kjv_checkpoint: Path, tmp_path: Path) -> None:
    model = load(kjv_checkpoint, dtype=name)
    assert model.parameters["head.weight"].dtype == ours
    assert model.config.compute_dtype == ("f64" if ours == "f64" else "f32")
    plan = convert(kjv_checkpoint, tmp_path / "m.h5", dtype=name).plan
    assert {tensor.dtype for tensor in plan.tensors if tensor.kind == "head"} == {ours}
    assert plan.config.compute_dtype == model.config.compute_dtype


def test_progress_of_what_is_read_into_memory(kjv_checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = load(kjv_checkpoint, dtype="q8", mmap=False, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(parameter.array.nbytes for parameter in model.parameters.values())
