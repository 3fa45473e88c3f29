from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, small_parameters, write_safetensors, write_small
from formats import foreign
from formats.make_pth import Zip, zip_checkpoint
from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import FormatError
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.verify import verify
from storage.small import forge

COUNT = sum(array.size for array in small_parameters().values())


def test_a_sound_model_file(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "m")
    report = verify(str(tmp_path / "m"))
    assert report.ok
    assert (report.format, report.tensors, report.problems) == ("hdf5", 114, ())
    assert report.checksums >= report.tensors
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_a_sound_checkpoint(tmp_path: Path) -> None:
    report = verify(write_small(tmp_path / "s"))
    assert report.ok
    assert (report.checksums, report.bytes_read) == (0, 4 * COUNT)


def test_a_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    target = tmp_path / "m"
    parameters = small_parameters()
    convert(write_safetensors(tmp_path / "s", parameters), target)
    content = bytearray(target.read_bytes())
    at = content.index(parameters["blocks.1.ffn.key.weight"].tobytes())
    content[at + 100] ^= 1
    target.write_bytes(content)
    report = verify(target)
    assert not report.ok
    damaged = (
        "blocks.1.ffn.key.weight: the checksum does not match: the file is damaged; copy it again or convert it again"
    )
    assert report.problems == (f"{target}: {damaged}",)


def test_what_is_not_a_number_is_a_problem(tmp_path: Path) -> None:
    path = write_small(tmp_path / "s", ln_out__bias=numbers(np.nan, np.inf, np.inf, shape=(32,)))
    assert verify(path).problems == (f"{path}: ln_out.bias: 1 NaN and 2 Inf",)


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_a_quantized_model_file(tmp_path: Path, dtype: str) -> None:
    plan = convert(write_small(tmp_path / "s"), tmp_path / "m", dtype=dtype).plan
    report = verify(tmp_path / "m")
    assert report.ok
    assert (report.tensors, report.bytes_read) == (len(plan.tensors), plan.nbytes)


@pytest.mark.parametrize(("dtype", "offset"), [("q8", 0), ("q6", 0), ("q6", 32), ("q4", 0), ("q4", 32)])
def test_a_step_that_is_not_a_number_is_a_problem(tmp_path: Path, dtype: str, offset: int) -> None:
    """With checksums that fit: 32 or 64 weights of one row are lost by it."""
    path = tmp_path / "m"
    convert(write_small(tmp_path / "s"), path, dtype=dtype)
    with CheckedFile(path, MODEL_KIND) as checked:
        entry = checked.entries["parameters/head.weight"]
    content = bytearray(path.read_bytes())
    content[entry.offset + offset : entry.offset + offset + 2] = b"\x01\x7e"
    path.write_bytes(content)
    raw = bytes(content[entry.offset : entry.offset + entry.spec.nbytes])
    old, new = (b'"crc32":%d}' % value for value in (entry.crc32, zlib.crc32(raw)))
    forge(path, lambda index: index.replace(old, new))
    assert verify(path).problems == (f"{path}: head.weight: 32 NaN and 0 Inf",)


def test_missing_parameters_are_a_problem(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["ln_out.bias"]
    report = verify(write_safetensors(tmp_path / "s", parameters))
    assert len(report.problems) == 1
    assert "missing ln_out.bias" in report.problems[0]


def test_an_unknown_version_is_a_problem(tmp_path: Path) -> None:
    report = verify(write_safetensors(tmp_path / "s", {"x": numbers(shape=(3,))}))
    assert "expected the parameters of an RWKV model" in report.problems[0]


def test_a_tensor_that_cannot_be_decoded_is_a_problem(tmp_path: Path) -> None:
    content = foreign.rwkvcpp_bytes(small_parameters())
    decay = -np.exp(small_parameters()["blocks.1.att.time_decay"].astype(np.float64)).astype("<f4")
    at = content.index(decay.tobytes())
    path = tmp_path / "s"
    path.write_bytes(content[:at] + np.float32(1).tobytes() + content[at + 4 :])
    report = verify(path)
    assert len(report.problems) == 1
    assert "blocks.1.att.time_decay: expected -exp(time_decay), which is below 0" in report.problems[0]


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    path = write_small(tmp_path / "s")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        verify(path)


def archive() -> Zip:
    return zip_checkpoint({name: ("f32", array.astype("<f4")) for name, array in small_parameters().items()})


def test_checksums_of_a_zip_archive(tmp_path: Path) -> None:
    path = archive().write(tmp_path / "s.pth")
    report = verify(path)
    assert report.ok
    assert report.checksums == len(small_parameters())
    content = bytearray(path.read_bytes())
    content[content.index(small_parameters()["blocks.1.ffn.key.weight"].tobytes()) + 5] ^= 1
    path.write_bytes(content)
    damaged = verify(path)
    (problem,) = damaged.problems
    assert problem.startswith(f"{path}: blocks.1.ffn.key.weight: expected bytes with the checksum ")
    assert problem.endswith("the file is damaged: download or copy it again")
    assert damaged.checksums == len(small_parameters())


def test_checksums_that_torch_left_out(tmp_path: Path) -> None:
    written = archive()
    for entry in written.entries:
        entry.crc = 0
    report = verify(written.write(tmp_path / "s.pth"))
    assert report.ok
    assert report.checksums == 0


def test_a_folder_with_an_archive(tmp_path: Path) -> None:
    archive().write(tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    report = verify(tmp_path)
    assert report.ok
    assert report.checksums == len(small_parameters())


@pytest.mark.parametrize("kind", ["model file", "checkpoint", "archive"])
def test_progress_reaches_the_end(tmp_path: Path, kind: str) -> None:
    path = archive().write(tmp_path / "s.pth") if kind == "archive" else write_small(tmp_path / "s")
    if kind == "model file":
        convert(path, tmp_path / "m")
        path = tmp_path / "m"
    seen: list[tuple[int, int]] = []
    verify(path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
    assert len(seen) > len(small_parameters())
