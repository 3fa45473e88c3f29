"""Truncated, flipped, unfinished and forged model files: FormatError before the HDF5 library reads them."""

from __future__ import annotations

import itertools
import os
import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from bits import sampled
from rwkv_cy.errors import FormatError, RWKVError, UnsupportedError
from rwkv_cy.storage import open_model
from rwkv_cy.storage.schema import HEADER_PATH, PAGE, TOKENIZER_PATH
from storage.small import BARE_HEADER, change_footer, few_tensors, forge, overwrite_at, python, tensors, write_small

#: Changes one bit after the other of the bytes that open_model() vouches for, and prints those that went unnoticed.
#: A process of its own: a crash is a failure of one test, not of all.
FLIP = """
import os, sys
from rwkv_cy.errors import FormatError
from rwkv_cy.storage import open_model
path = sys.argv[1]
file = os.open(path, os.O_RDWR)
step = int(sys.argv[2])
for span in sys.argv[3:]:
    start, end, bits = map(int, span.split(":"))
    flips = [(offset, bit) for offset in range(start, end) for bit in (range(8) if bits == 8 else [offset % 8])]
    for offset, bit in flips[::step]:
        old = os.pread(file, 1, offset)
        os.pwrite(file, bytes([old[0] ^ 1 << bit]), offset)
        try:
            open_model(path)
            print("unnoticed:", offset, bit)
        except FormatError:
            pass
        os.pwrite(file, old, offset)
open_model(path)
print("done")
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    write_small(path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.h5"
    write_small(path, few_tensors(), BARE_HEADER)
    return path


@sampled
def test_cut_at_every_length(tiny: Path, step: int) -> None:
    for size in range(tiny.stat().st_size - 1, -1, -step):
        os.truncate(tiny, size)
        expected = "is empty" if size == 0 else "it is truncated|expected bytes within"
        with pytest.raises(FormatError, match=expected):
            open_model(tiny)


@sampled
def test_every_bit_of_the_structure_flipped(tiny: Path, step: int) -> None:
    raw = tiny.read_bytes()
    with open_model(tiny) as file:
        footer = file._checked.footer
        header = file._checked.entries[HEADER_PATH].offset
    used = len(raw[: footer.metadata_size].rstrip(b"\0"))
    spans = [
        (0, used, 8),
        (used, footer.metadata_size, 1),
        (header, header + PAGE, 1),
        (footer.index_offset, footer.index_offset + footer.index_size, 1),
        (len(raw) - PAGE, len(raw) - PAGE + 72, 8),
        (len(raw) - PAGE + 72, len(raw) - 4, 1),
        (len(raw) - 4, len(raw), 8),
    ]
    arguments = [f"{start}:{end}:{bits}" for start, end, bits in spans]
    done = subprocess.run(python(FLIP, tiny, str(step), *arguments), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_random_bits_of_the_data(model: Path) -> None:
    rng = np.random.default_rng(3)
    with open_model(model) as file:
        entries = file._checked.entries
        for name in file.names():
            entry = entries[file.info(name).source_name]
            offset = entry.offset + int(rng.integers(entry.spec.nbytes))
            old = model.read_bytes()[offset]
            overwrite_at(model, offset, bytes([old ^ 1 << int(rng.integers(8))]))
            assert file._checked.file.crc32(entry.offset, entry.spec.nbytes) != entry.crc32
        report = file.verify()
    assert report.damaged == tuple(tensors())
    assert not report.ok


def test_bytes_between_the_datasets(model: Path) -> None:
    with open_model(model) as file:
        datasets = sorted((offset, offset + spec.nbytes) for spec, offset in file._checked.datasets())
        end = next(end for (_, end), (start, _) in itertools.pairwise(datasets) if end < start)
        overwrite_at(model, end, b"x")
        report = file.verify()
    assert report.damaged == ()
    assert len(report.problems) == 1
    assert re.search(f"expected zeros between {end} and .*, got other bytes; copy it again", report.problems[0])


def test_structure_damaged_after_opening(model: Path) -> None:
    with open_model(model) as file:
        overwrite_at(model, 100, b"x" * 30)
        report = file.verify()
    assert len(report.problems) == 1
    assert "the HDF5 structure: the checksum does not match" in report.problems[0]


def test_trailing_bytes(model: Path) -> None:
    size = model.stat().st_size
    overwrite_at(model, size, b"x")
    with pytest.raises(FormatError, match=f"expected {size} bytes, got {size + 1}: data were appended after the end"):
        open_model(model)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(FormatError, match="expected an HDF5 file, got one that begins with b'<!DOCTYP'; convert it"):
        open_model(path)
    for libver, count in itertools.product(("earliest", "latest"), (1, 10_000)):
        with h5py.File(path, "w", libver=libver) as file:
            file["x"] = np.zeros(count)
        with pytest.raises(FormatError, match="expected a file of rwkv-cy, got an HDF5 file of another kind"):
            open_model(path)


def test_userblock(model: Path) -> None:
    path = model.with_name("userblock.h5")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.zeros(10_000)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes()[10:])
    with pytest.raises(FormatError, match="expected an HDF5 file, got one that begins with"):
        open_model(path)
    path.write_bytes(bytes(512) + model.read_bytes())
    with pytest.raises(FormatError, match="expected an HDF5 file, got one that begins with"):
        open_model(path)


def test_left_open_by_a_writer_that_died(model: Path) -> None:
    program = (
        "import h5py, os, sys; f = h5py.File(sys.argv[1], 'r+', libver='latest', locking=False);"
        "f.swmr_mode = True; os._exit(9)"
    )
    assert subprocess.run(python(program, model), check=False).returncode == 9
    with pytest.raises(FormatError, match="expected a closed file, got one that an HDF5 writer left open; convert"):
        open_model(model)


def test_unfinished(model: Path) -> None:
    change_footer(model, complete=False)
    with pytest.raises(FormatError, match="expected a finished file, got one whose writer died; convert"):
        open_model(model)


def change_version(path: Path, major: int) -> None:
    page = bytearray(path.read_bytes()[-PAGE:])
    struct.pack_into("<I", page, 8, major)
    struct.pack_into("<I", page, PAGE - 4, zlib.crc32(page[:-4]))
    overwrite_at(path, -PAGE, bytes(page))


def test_versions(model: Path) -> None:
    change_version(model, 3)
    with pytest.raises(UnsupportedError, match="expected version 2 of the format or below, got 3; update rwkv-cy to"):
        open_model(model)
    change_version(model, 0)
    with pytest.raises(FormatError, match="expected version 1 of the format or above, got 0; convert"):
        open_model(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"file_size": 1 << 63},
        {"metadata_size": 0},
        {"metadata_size": (1 << 64) - 1},
        {"index_offset": (1 << 64) - 1},
        {"index_offset": 0},
        {"index_size": (1 << 64) - 1},
        {"index_size": 1 << 50},
    ],
)
def test_an_inconsistent_footer(model: Path, changes: dict[str, int]) -> None:
    change_footer(model, **changes)
    with pytest.raises(FormatError, match=r"expected a footer that fits the file of .* bytes, got one that does not"):
        open_model(model)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        result = text.replace(old, new, 1)
        assert result != text
        return result

    return change


def pattern(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        result = re.sub(old, new, text, count=1)
        assert result != text
        return result

    return change


EMB = rb'("path":"parameters/emb.weight",.*?"offset":)\d+'


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: b"", FormatError, "index: expected a plain JSON object"),
        (lambda text: b"\xff" + text[1:], FormatError, "index: expected a plain JSON object"),
        (lambda text: b"[" * 1000, FormatError, "index: expected a plain JSON object"),
        (lambda text: b"[]", FormatError, "index: expected a plain JSON object"),
        (replaced(b"rwkv-cy", b"other"), FormatError, "index: expected the fields format"),
        (replaced(b'"kind"', b'"K"'), FormatError, "index: expected the fields format"),
        (replaced(b'"datasets"', b'"D"'), FormatError, "index: expected the fields format"),
        (replaced(b'"model"', b'"state"'), UnsupportedError, "is a state, not a model; use it with --state"),
        (pattern(rb"\[\{.*\}\]", b"[7]"), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (replaced(b'"crc32"', b'"crc"'), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (replaced(b"[130,128]", b"[130,true]"), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (replaced(b"[130,128]", b"[1.5,128]"), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (replaced(b"[130,128]", b'"ab"'), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (pattern(EMB, rb'\1"4096"'), FormatError, "index: expected path, dtype, shape, offset and crc32"),
        (replaced(b"[130,128]", b"[]"), FormatError, "expected 1 to 8 dimensions"),
        (replaced(b"[130,128]", b"[0,128]"), FormatError, "expected 1 to 8 dimensions"),
        (replaced(b"[130,128]", b"[-1,-1]"), FormatError, "expected 1 to 8 dimensions"),
        (replaced(b"[130,128]", b"[9223372036854775808]"), FormatError, r"at most 2\*\*48 elements"),
        (replaced(b"[130,128]", b"[4294967296,4294967296]"), FormatError, r"at most 2\*\*48 elements"),
        (replaced(b"[130,128]", b"[4503599627370496]"), FormatError, r"at most 2\*\*48 elements"),
        (replaced(b"[130,128]", b"[281474976710656]"), FormatError, "expected it behind parameters/emb.weight"),
        (replaced(b'"f32"', b'"u4"'), FormatError, "one of u8, f64, f32, f16, bf16, q8, q6, q4, q4n, bf12, got 'u4'"),
        (replaced(b'"f32"', b'"u8"'), FormatError, r"expected a parameter, got a dataset of another kind \(u8\)"),
        (replaced(b"emb.weight", b"../weight"), FormatError, "expected a name of letters"),
        (replaced(b"emb.weight", b""), FormatError, "expected a name of letters"),
        (replaced(b"parameters/emb", b"elsewhere/emb"), FormatError, "expected a parameter, got a dataset"),
        (replaced(b"blocks.1/ln1", b"blocks.1.ln1"), FormatError, "expected a parameter, got a dataset"),
        (replaced(b"blocks.1/ln1", b"blocks.0/ln1"), FormatError, "expected parameters/blocks.0/ln1.weight once"),
        (pattern(EMB, rb"\g<1>0"), FormatError, "emb.weight: expected it behind the metadata, which ends at"),
        (pattern(EMB, rb"\1-4096"), FormatError, "emb.weight: expected it behind the metadata, which ends at"),
        (pattern(EMB, rb"\g<1>18446744073709551615"), FormatError, "emb.weight: expected its end at .* at most, got"),
        (pattern(EMB, rb"\g<1>9223372036854775807"), FormatError, "emb.weight: expected its end at .* at most, got"),
        (replaced(b"metadata/header", b"parameters/h"), FormatError, "in metadata/header, got no such dataset"),
    ],
)  # fmt: skip
def test_an_inconsistent_index(
    model: Path, change: Callable[[bytes], bytes], error: type[FormatError], message: str
) -> None:
    forge(model, change)
    with pytest.raises(error, match=message):
        open_model(model)


def test_more_datasets_than_a_model_has(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.storage.index.MAX_DATASETS", 3)
    with pytest.raises(FormatError, match="index: expected at most 3 datasets, got 8"):
        open_model(model)


def test_a_header_larger_than_any(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.storage.checked_file.MAX_HEADER_BYTES", 100)
    with pytest.raises(FormatError, match="expected at most 100 bytes in metadata/header, got 4096 of type u8"):
        open_model(model)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rwkv4"', b"4"),
        (b'"architecture"', b'"A"'),
        (b'"d_model":8', b'"d_model":[]'),
        (b'"d_model":8', b'"d_model":null'),
        (b'"small.pth"', b"7"),
        (b'{"kind":"world"}', b'{"kind":"x"}'),
        (b'{"kind":"world"}', b'"world"'),
    ],
)
def test_a_header_of_another_kind(model: Path, old: bytes, new: bytes) -> None:
    forge(model, replaced(old, new), HEADER_PATH)
    with pytest.raises(FormatError, match="header: expected architecture, config, fingerprint, tokenizer, source"):
        open_model(model)


@pytest.mark.parametrize("path", [TOKENIZER_PATH, HEADER_PATH])
def test_small_datasets_damaged(model: Path, path: str) -> None:
    with open_model(model) as file:
        offset = file._checked.entries[path].offset
    overwrite_at(model, offset, b"\0")
    with pytest.raises(FormatError, match=f"{path}: the checksum does not match"):
        open_model(model)


def test_index_damaged(model: Path) -> None:
    with open_model(model) as file:
        offset = file._checked.footer.index_offset
    overwrite_at(model, offset, b"\0")
    with pytest.raises(FormatError, match="the index: the checksum does not match"):
        open_model(model)


def test_edited_by_another_program(model: Path) -> None:
    with h5py.File(model, "r+", locking=False) as file:
        file["parameters/emb.weight"].attrs["dtype"] = np.bytes_(b"f16")
    with pytest.raises(RWKVError):
        open_model(model)
