from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import pytest

from rwkv_cy.files.blocks import bytes_of
from rwkv_cy.formats.writers import zip_archive
from rwkv_cy.formats.writers.base import StoredTensor
from rwkv_cy.formats.writers.zip_archive import ALIGNMENT, ZipItem, zip_file

CONTENTS = {"data.pkl": b"pickle", "data/0": bytes(range(200)), "data/1": b"", "version": b"3\n"}


def nothing(tensor: StoredTensor) -> Iterator[memoryview]:
    raise AssertionError(tensor)


def written() -> bytes:
    file = zip_file("", "archive", [ZipItem.of_bytes(name, data) for name, data in CONTENTS.items()])
    data = b"".join(map(bytes_of, file.blocks(nothing)))
    assert len(data) == file.size
    return data


@pytest.mark.parametrize("large", [zip_archive.LARGE, 150, 0])
def test_an_archive_as_python_reads_it(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    """With all numbers in 32 bits, some in zip64 fields (from 150 on), and all in zip64 fields."""
    monkeypatch.setattr(zip_archive, "LARGE", large)
    if large != 0xFFFF_FFFF:
        # Readers look for the mark of all ones, whatever this limit is.
        monkeypatch.setattr(zip_archive, "MARK", 0xFFFF_FFFF)
    data = written()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            f"archive/{name}": content for name, content in CONTENTS.items()
        }
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            name_size, extra_size = (
                int.from_bytes(data[entry.header_offset + at : entry.header_offset + at + 2], "little")
                for at in (26, 28)
            )
            assert (entry.header_offset + 30 + name_size + extra_size) % ALIGNMENT == 0


def test_the_same_entries_give_the_same_bytes() -> None:
    assert written() == written()
