"""One flipped bit in the weights is detected by everything that reads all of them, and never stored again."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import pytest

from checkpoints import write_small
from rwkv_cy import load
from rwkv_cy.errors import FormatError
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.verify import verify

NAME = "blocks.0.att.key.weight"


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.fixture(params=["f32", "q8", "bf16"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model file with a flipped bit in one matrix: the lowest one of a number."""
    path = tmp_path / "m.h5"
    convert(write_small(tmp_path / "s"), path, dtype=request.param)
    with CheckedFile(path, MODEL_KIND) as file:
        offset = file.entries["parameters/blocks.0/att.key.weight"].offset
    flip(path, offset + 64)
    return path


@pytest.mark.parametrize("dtype", [None, "f32", "f16"])
def test_a_damaged_model_file_is_not_converted(damaged: Path, tmp_path: Path, dtype: str | None) -> None:
    with pytest.raises(FormatError, match=rf"m\.h5: {NAME}: the checksum does not match: the file is damaged; copy"):
        convert(damaged, tmp_path / "t", dtype=dtype)
    assert not (tmp_path / "t").exists()


def test_a_damaged_model_file_is_not_read_into_memory(damaged: Path) -> None:
    with pytest.raises(FormatError, match=rf"m\.h5: {NAME}: the checksum does not match"):
        load(damaged, mmap=False)
    with pytest.raises(FormatError, match=rf"m\.h5: {NAME}: the checksum does not match"):
        load(damaged, dtype="f64")


def data_offset(content: bytes | bytearray, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: after its local header."""
    name_length, extra_length = struct.unpack_from("<2H", content, entry.header_offset + 26)
    return entry.header_offset + 30 + int(name_length) + int(extra_length)


@pytest.fixture
def archive(kjv_checkpoint: Path, tmp_path: Path) -> Path:
    """kjv.pth, with a flipped bit in its last storage."""
    path = tmp_path / "m.pth"
    path.write_bytes(kjv_checkpoint.read_bytes())
    with zipfile.ZipFile(path) as opened:
        entry = max((e for e in opened.infolist() if "/data/" in e.filename), key=lambda e: e.header_offset)
        assert entry.CRC
    content = path.read_bytes()
    flip(path, data_offset(content, entry) + 4)
    return path


def without_checksums(path: Path) -> None:
    """Write 0 for every checksum, as torch does with checksums off."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as opened:
        entries, central = opened.infolist(), opened.start_dir
    for entry in entries:
        descriptor = data_offset(content, entry) + entry.file_size
        for checksum in (central + 16, descriptor + 4):
            assert content[checksum : checksum + 4] == struct.pack("<I", entry.CRC)
            content[checksum : checksum + 4] = bytes(4)
        central += 46 + sum(struct.unpack_from("<3H", content, central + 28))
    path.write_bytes(content)


def test_a_damaged_archive_is_noticed(archive: Path, tmp_path: Path) -> None:
    message = r"m\.pth: .*: expected bytes with the checksum [0-9a-f]{8}, got [0-9a-f]{8}; the file is damaged: down"
    with pytest.raises(FormatError, match=message):
        convert(archive, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    with pytest.raises(FormatError, match=message):
        load(archive, mmap=False)
    report = verify(archive)
    assert len(report.problems) == 1
    assert re.search(message, report.problems[0])


def test_an_archive_without_checksums_is_not_damaged(archive: Path, tmp_path: Path) -> None:
    without_checksums(archive)
    report = verify(archive)
    assert report.ok
    convert(archive, tmp_path / "t")
    load(archive, mmap=False)
