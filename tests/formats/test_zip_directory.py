"""The zip directory: entries at their offsets, and an error for every inconsistency."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formats.make_pth import Entry, Zip, deflated
from rwkv_cy.errors import FormatError, StorageError, UnsupportedError
from rwkv_cy.formats import zip_directory
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.zip_directory import locate, locate_all, read_directory, read_entry

GIB = 1 << 30


def contents(path: Path, limit: int = 1000) -> dict[str, bytes]:
    """Read the whole archive, as the reader of checkpoints does: directory, places, small entries."""
    with FileBytes(path) as file:
        entries = read_directory(file)
        for entry in entries.values():
            locate(file, entry)
        return {name: read_entry(file, entry, limit) for name, entry in entries.items()}


def two(**first: Any) -> list[Entry]:
    values: dict[str, Any] = {"name": "a/one", "data": b"first", **first}
    return [Entry(**values), Entry("a/two", b"second")]


@pytest.mark.parametrize("wide", [False, True])
def test_finds_entries(tmp_path: Path, wide: bool) -> None:
    path = Zip(two(), wide=wide).write(tmp_path / "zip")
    assert contents(path) == {"a/one": b"first", "a/two": b"second"}


def test_reads_what_python_writes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.mkdir("a") if hasattr(archive, "mkdir") else archive.writestr("a/", b"")
        archive.writestr("a/one", b"first")
        archive.writestr("a/ключ", b"")
    assert contents(tmp_path / "zip") == {"a/one": b"first", "a/ключ": b""}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("comment", [b"x", b"a comment of some length", b"\0" * 0xFFFF])
def test_a_comment_is_passed_over(tmp_path: Path, wide: bool, comment: bytes) -> None:
    path = Zip(two(), wide=wide, comment=comment).write(tmp_path / "zip")
    assert zipfile.ZipFile(path).comment == comment
    assert contents(path) == {"a/one": b"first", "a/two": b"second"}


@pytest.mark.parametrize("length", [225, 226, 227, 512])  # with its header 255 to 257 bytes, and the longest
def test_long_names(tmp_path: Path, length: int) -> None:
    name = "a/".ljust(length, "x")
    path = Zip([Entry("a/one", b"first"), Entry(name, b"second"), Entry("a/z", b"")]).write(tmp_path / "zip")
    assert contents(path) == {"a/one": b"first", name: b"second", "a/z": b""}


def test_a_file_that_is_truncated_after_its_directory_was_read(tmp_path: Path) -> None:
    path = Zip(two()).write(tmp_path / "zip")
    with FileBytes(path) as file:
        entries = read_directory(file)
        os.truncate(path, 60)
        with pytest.raises(FormatError, match=r"got 60 bytes: the file was truncated while it was open"):
            locate(file, entries["a/two"])


class Elsewhere:
    """A file whose descriptor is of another one."""

    def __init__(self, file: FileBytes, descriptor: int) -> None:
        self.path, self.size, self.read_at, self.descriptor = file.path, file.size, file.read_at, descriptor


def test_reads_that_fail_or_are_short(tmp_path: Path) -> None:
    path = Zip(two()).write(tmp_path / "zip")
    shorter = tmp_path / "shorter"
    shorter.write_bytes(path.read_bytes()[:40])
    with FileBytes(path) as file, FileBytes(shorter) as other:
        entries = list(read_directory(file).values())
        expected = [place.offset for place in locate_all(file, entries)]
        for descriptor in (-1, other.descriptor):
            places = locate_all(Elsewhere(file, descriptor), entries)  # type: ignore[arg-type]
            assert [place.offset for place in places] == expected


def test_a_file_that_is_closed(tmp_path: Path) -> None:
    file = FileBytes(Zip(two()).write(tmp_path / "zip"))
    entries = read_directory(file)
    file.close()
    with pytest.raises(StorageError, match="expected an open file, got a closed one"):
        locate(file, entries["a/two"])


def test_python_reads_what_the_maker_writes() -> None:
    for wide in (False, True):
        archive = zipfile.ZipFile(io.BytesIO(Zip(two(), wide=wide).to_bytes()))
        assert archive.read("a/two") == b"second"


def test_more_than_4_gib(tmp_path: Path) -> None:
    large = Entry("a/large", b"begin", hole=5 * GIB, crc=0, local_sizes=(0xFFFFFFFF, 0xFFFFFFFF))
    path = Zip([large, Entry("a/behind", b"end")], wide=True).write(tmp_path / "zip")
    with FileBytes(path) as file:
        entries = read_directory(file)
        assert entries["a/large"].size == 5 * GIB + 5
        assert locate(file, entries["a/large"]).offset == 37
        assert locate(file, entries["a/behind"]).offset > 5 * GIB
        assert read_entry(file, entries["a/behind"], 3) == b"end"


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Zip(two(), trailing=b"x"), "expected the end of a zip directory at the end of the file, got other bytes"),
        (Zip(two(), comment=b"PK", trailing=b"x"), "expected the end of a zip directory at the end of the file"),
        (Zip(two(), comment=b"PK\x05\x06" + bytes(30)), "expected the end of a zip directory at the end of the file"),
        (Zip(two(), disk=1), "expected all entries on one disk, got 2 of 2 on disk 1"),
        (Zip(two(disk=2)), "expected one disk, got disk 2"),
        (Zip(two(), count=1), "expected 1 entries in the zip directory, got 51 more bytes"),
        (Zip(two(), count=3), "expected another entry of the zip directory, got its end"),
        (Zip(two(), count=0xFFFF), "expected another entry of the zip directory, got its end"),
        (Zip(two(), wide=True, count=1 << 50), "expected a zip directory of at most .* entries, got 102 and 11258999"),
        (Zip(two(), directory_size=101), "expected a zip directory that ends at"),
        (Zip(two(), directory_size=0, count=0), "expected a zip directory that ends at"),
        (Zip(two(), directory_offset=1), "expected a zip directory that ends at"),
        (Zip(two(), wide=True, directory_offset=1 << 63), "expected a zip directory that ends at"),
        (Zip(two(), wide=True, directory_size=(1 << 64) - 1), "expected a zip directory that ends at"),
        (Zip(two(), wide=True, locator_disks=2), "expected the zip64 end of the directory at"),
        (Zip(two(), wide=True, end64_signature=b"PK\x06\x05"), "expected the zip64 end of the directory, got other"),
        (Zip(two(header_offset=1 << 31)), "expected entry 'a/one' before the directory, got offset 2147483648"),
        (Zip(two(header_offset=1 << 63)), "expected entry 'a/one' before the directory"),
        (Zip(two(name="a/two")), "expected each name once in the zip directory, got 'a/two' twice"),
        (Zip(two(size=0xFFFFFFFF, extra=b"")), "expected the 64-bit sizes of zip entry 'a/one', got none"),
        (Zip(two(size=0xFFFFFFFF, extra=b"\x01\x00\x08\x00")), "expected the 64-bit sizes of zip entry 'a/one'"),
        (Zip(two(size=0xFFFFFFFF, extra=b"\x07\x00\xff\xff")), "expected the 64-bit sizes of zip entry 'a/one'"),
        (Zip(two(name="../x")), "got '../x', which looks like a path"),
        (Zip(two(name="/x")), "got '/x', which looks like a path"),
        (Zip(two(name="../")), "got '..', which looks like a path"),
        (Zip(two(name="")), "which is empty"),
        (Zip(two(name="a\0b")), "which has characters that cannot be printed"),
        (Zip(two(name=b"\xff\xfe")), "expected a tensor's name in UTF-8"),
        (Zip(two(name="x" * 60_000)), "which is longer than 512 bytes"),
        (Zip(two(size=1 << 40, extra=struct.pack("<2H2Q", 1, 16, 1 << 40, 1 << 40))), "expected zip entry 'a/one'"),
        (Zip(two(size=200)), "expected zip entry 'a/one' to end at 56 at most"),
        (Zip(two(size=22)), "expected zip entry 'a/one' to end at 56 at most, got its end at 57"),
        (Zip(two(size=10)), "expected the sizes of zip entry 'a/one' behind its bytes, got others or none"),
        (Zip(two(descriptor=b"PK\x07\x08")), "expected the sizes of zip entry 'a/one' behind its bytes"),
        (Zip(two(descriptor=b"")), "expected the sizes of zip entry 'a/one' behind its bytes"),
        (Zip(two(header_offset=56)), "expected zip entry 'a/one' under one name, got another"),
        (Zip(two(header_offset=57)), "expected the local header of zip entry 'a/one', got other bytes"),
        (Zip(two(local_signature=b"PK\x01\x02")), "expected the local header of zip entry 'a/one'"),
        (Zip(two(local_method=8)), "expected the local header of zip entry 'a/one'"),
        (Zip(two(local_name="a/oneself")), "expected zip entry 'a/one' under one name, got another"),
        (Zip(two(local_name="a/uno")), "expected zip entry 'a/one' under one name, got another"),
        (Zip(two(local_sizes=(5, 6))), "expected zip entry 'a/one' of 5 bytes, got 6 in its local header"),
        (Zip(two(local_sizes=(6, 5))), "expected zip entry 'a/one' of 5 bytes, got 5 in its local header"),
        (Zip(two(flags=0)), "expected zip entry 'a/one' of 5 bytes, got 0 in its local header"),
        (Zip(two(crc=1)), "expected checksum 00000001 of zip entry 'a/one', got"),
        (Zip([Entry("a/one", b"x" * 1001)]), "expected zip entry 'a/one' of at most 1000 bytes, got 1001"),
    ],
)
def test_a_directory_that_contradicts_the_archive(tmp_path: Path, archive: Zip, message: str) -> None:
    path = archive.write(tmp_path / "zip")
    with pytest.raises(FormatError, match=message):
        contents(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (two(method=12, stored_size=3), r"stored or deflated, got it compressed \(method 12\); unpack the archive"),
        (two(method=93, local_method=93), r"got it compressed \(method 93\); unpack the archive and pack it again wi"),
        (two(flags=0x809), "expected a plain zip entry 'a/one', got an encrypted one"),
    ],
)
def test_compressed_otherwise_or_encrypted(tmp_path: Path, entry: list[Entry], message: str) -> None:
    path = Zip(entry).write(tmp_path / "zip")
    with pytest.raises(UnsupportedError, match=message):
        contents(path)


def test_checksums_of_0_in_every_entry_are_not_checked(tmp_path: Path) -> None:
    entries = [replace(entry, crc=0) for entry in two()]
    assert contents(Zip(entries).write(tmp_path / "zip")) == {"a/one": b"first", "a/two": b"second"}
    with pytest.raises(FormatError, match=r"expected checksum 00000000 of zip entry 'a/one', got"):
        contents(Zip(two(crc=0)).write(tmp_path / "zip"))


@pytest.mark.parametrize("wide", [False, True])
def test_deflated_entries(tmp_path: Path, wide: bool) -> None:
    path = Zip([deflated("a/one", b"first" * 100), Entry("a/two", b"second")], wide=wide).write(tmp_path / "zip")
    assert contents(path) == {"a/one": b"first" * 100, "a/two": b"second"}


def test_deflated_entries_of_python(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/one", bytes(1000))
        archive.writestr("a/none", b"")
    assert contents(tmp_path / "zip") == {"a/one": bytes(1000), "a/none": b""}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (replace(deflated("a/one", b"first"), local_method=0), "expected the local header of zip entry 'a/one', got"),
        (replace(deflated("a/one", b"first"), size=6), "but it ends too early"),
        (replace(deflated("a/one", b"first"), size=6, flags=0x800, local_sizes=(7, 6)), "but it ends too early"),
        (replace(deflated("a/one", b"first"), size=4, flags=0x800, local_sizes=(7, 4)), "but it goes on after its end"),
        (replace(deflated("a/one", b"first"), stored_size=8, flags=0x800, local_sizes=(8, 5)), "to end at 42 at most"),
        (replace(deflated("a/one", b"first"), data=b"\xff" * 7), "but it has other bytes"),
        (replace(deflated("a/one", bytes(100_000)), size=1 << 31, stored_size=99), "at most 64 times its size when"),
        (Entry("a/one", b"first", size=6, stored_size=5, flags=0x800, local_sizes=(5, 6)), "of one size, got 5 and 6"),
    ],
)
def test_deflated_entries_that_contradict_themselves(tmp_path: Path, entry: Entry, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        contents(Zip([entry, Entry("a/two", b"second")]).write(tmp_path / "zip"))


def test_ends_that_disagree(tmp_path: Path) -> None:
    data = bytearray(Zip(two(), wide=True).to_bytes())
    data[-10] ^= 1
    (tmp_path / "zip").write_bytes(data)
    with pytest.raises(FormatError, match="expected both ends of the zip directory to agree, got"):
        contents(tmp_path / "zip")


def test_entries_on_another_disk(tmp_path: Path) -> None:
    data = bytearray(Zip(two()).to_bytes())
    data[-12] ^= 1
    (tmp_path / "zip").write_bytes(data)
    with pytest.raises(FormatError, match="expected all entries on one disk, got 2 of 3 on disk 0"):
        contents(tmp_path / "zip")


def test_other_bytes_in_the_directory(tmp_path: Path) -> None:
    data = Zip(two()).to_bytes().replace(b"PK\x01\x02", b"PK\x01\x03")
    (tmp_path / "zip").write_bytes(data)
    with pytest.raises(FormatError, match="expected another entry of the zip directory, got other bytes"):
        contents(tmp_path / "zip")


def test_no_zip_at_all(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="expected a zip archive, got 4 bytes"):
        contents(tmp_path / "zip")


def test_a_directory_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, "MAX_HEADER_BYTES", 101)
    with pytest.raises(FormatError, match="expected a zip directory of at most 101 bytes"):
        contents(Zip(two()).write(tmp_path / "zip"))
