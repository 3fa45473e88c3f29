"""Opening files safely: kinds of path, bounds, truncation, and the shared checks of names and shapes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, KernelError, StorageError
from rwkv_cy.files import reading as files
from rwkv_cy.formats import base
from rwkv_cy.formats.base import FileBytes, add_entry, check_name, check_shape, decode_name, os_errors

HERE = Path("model")


@pytest.fixture
def sixteen(tmp_path: Path) -> Path:
    path = tmp_path / "sixteen"
    path.write_bytes(bytes(range(16)))
    return path


def test_reads_what_is_there(sixteen: Path) -> None:
    with FileBytes(sixteen) as file:
        assert file.size == 16
        assert file.read_at(3, 4) == bytes([3, 4, 5, 6])
        assert file.read_at(16, 0) == b""
        buffer = np.zeros((2, 2), "<u2")
        file.read_into_at(8, buffer)
        assert buffer.tobytes() == bytes(range(8, 16))


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (-1, 1), (0, -1), (1 << 63, 1), (1, 1 << 63)])
def test_refuses_to_leave_the_file(sixteen: Path, offset: int, size: int) -> None:
    with FileBytes(sixteen) as file, pytest.raises(FormatError, match=r"expected bytes within the 16 of the file"):
        file.read_at(offset, size)


def test_view_is_read_only_and_outlives_the_file(sixteen: Path) -> None:
    with FileBytes(sixteen) as file:
        view = file.view(4, np.dtype("<u4"), (3, 1))
        again = file.view(8, np.dtype("<u4"), (2,))
    assert view is not None
    assert again is not None
    assert not view.flags.writeable
    assert view.shape == (3, 1)
    assert view.tobytes() == bytes(range(4, 16))
    assert again.tobytes() == bytes(range(8, 16))


def test_view_is_none_where_misaligned_or_unmappable(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    with FileBytes(sixteen) as file:
        assert file.view(2, np.dtype("<u4"), (3,)) is None
        monkeypatch.setattr(files, "MappedFile", refuse)
        assert file.view(4, np.dtype("<u4"), (3,)) is None


def test_view_refuses_to_leave_the_file(sixteen: Path) -> None:
    with FileBytes(sixteen) as file, pytest.raises(FormatError, match="expected bytes within the 16"):
        file.view(4, np.dtype("<u4"), (1 << 61, 2))


def test_a_buffer_must_be_contiguous(sixteen: Path) -> None:
    with FileBytes(sixteen) as file, pytest.raises(KernelError, match="expected a contiguous array"):
        file.read_into_at(0, np.zeros(8, np.uint8)[::2])


def test_truncation_while_open(sixteen: Path) -> None:
    with FileBytes(sixteen) as file:
        file.check()
        os.truncate(sixteen, 8)
        for touch in (file.check, lambda: file.read_at(4, 8), lambda: file.view(0, np.dtype("u1"), (16,))):
            with pytest.raises(FormatError, match="expected 16 bytes, got 8 bytes: the file was truncated"):
                touch()


def test_short_reads_are_continued(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: at_once(fd, min(size, 3), offset))
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:3]], offset))
    with FileBytes(sixteen) as file:
        assert file.read_at(1, 14) == bytes(range(1, 15))


def test_a_failing_disk(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with FileBytes(sixteen) as file, pytest.raises(StorageError, match=r"cannot read it: Input/output.*check the disk"):
        file.read_at(0, 1)


def test_closed(sixteen: Path) -> None:
    file = FileBytes(sixteen)
    file.close()
    file.close()
    for touch in (file.check, lambda: file.read_at(0, 1)):
        with pytest.raises(StorageError, match="got a closed one"):
            touch()


def test_a_forgotten_file_is_closed(sixteen: Path) -> None:
    file = FileBytes(sixteen)
    descriptor = file._descriptor
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="is empty; download or copy it again"):
        FileBytes(tmp_path / "empty")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open it: No such file or directory; check the path"):
        FileBytes(tmp_path / "missing")


def test_dangling_and_looping_links(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="No such file"):
        FileBytes(tmp_path / "dangling")
    with pytest.raises(StorageError, match=r"cannot open it.*symbolic link"):
        FileBytes(tmp_path / "loop")


def test_directory_fifo_and_device(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a directory, not a regular file"):
        FileBytes(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StorageError, match="is a FIFO, not a regular file"):
        FileBytes(tmp_path / "fifo")
    with pytest.raises(StorageError, match="is a device, not a regular file; copy what it gives to a file"):
        FileBytes(Path("/dev/null"))


def test_a_path_that_becomes_a_fifo_does_not_hang(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regular = sixteen.stat()
    sixteen.unlink()
    os.mkfifo(sixteen)
    monkeypatch.setattr(Path, "stat", lambda _self, **_kwargs: regular)
    with pytest.raises(StorageError, match="is a FIFO, not a regular file"):
        FileBytes(sixteen)


def test_no_permission(sixteen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="cannot open it: Permission denied; make it readable"):
        FileBytes(sixteen)


def test_a_path_that_cannot_be() -> None:
    with pytest.raises(StorageError, match="expected a path, got an invalid file name"):
        FileBytes(Path("a\0b"))


def test_os_errors_leaves_the_package_s_own_alone() -> None:
    with pytest.raises(StorageError, match=r"^as it was$"), os_errors(HERE, "read"):
        raise StorageError("as it was")


@pytest.mark.parametrize("name", ["emb.weight", "blocks.0.att.key.weight", "a/b", "..a", "ключ", "x" * 512])
def test_good_names(name: str) -> None:
    assert check_name(HERE, name) == name
    assert decode_name(HERE, name.encode()) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("../x", "looks like a path"),
        ("/x", "looks like a path"),
        ("a/../x", "looks like a path"),
        ("x/", "looks like a path"),
        ("a\0b", "cannot be printed"),
        ("\x1b[2J", "cannot be printed"),
        ("a\ud800", "cannot be printed"),
        ("x" * 513, "longer than 512 bytes"),
        ("é" * 257, "longer than 512 bytes"),
        ("x" * (1 << 20), "longer than 512 bytes"),
    ],
)
def test_bad_names(name: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as caught:
        check_name(HERE, name)
    assert len(str(caught.value)) < 400


def test_bad_raw_names() -> None:
    with pytest.raises(FormatError, match="expected a tensor's name in UTF-8"):
        decode_name(HERE, b"\xff\xfe")
    with pytest.raises(FormatError, match="longer than 512 bytes"):
        decode_name(HERE, b"x" * 513)
    with pytest.raises(FormatError, match="name as text, got int"):
        check_name(HERE, 3)


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (1 << 48,), (1 << 24, 1 << 24)])
def test_good_shapes(shape: tuple[int, ...]) -> None:
    assert check_shape(HERE, "x", list(shape)) == shape


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "2", None, 1 << 63, 1 << 100])
def test_bad_dimensions(size: object) -> None:
    with pytest.raises(FormatError, match=r"model: x: expected dimensions from 1 to 2\*\*48"):
        check_shape(HERE, "x", [2, size])


def test_bad_shapes() -> None:
    with pytest.raises(FormatError, match="expected at most 8 dimensions, got 9"):
        check_shape(HERE, "x", [1] * 9)
    with pytest.raises(FormatError, match=r"expected at most 2\*\*48 elements"):
        check_shape(HERE, "x", [1 << 32, 1 << 32, 1])


def test_table_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[str, int] = {}
    add_entry(HERE, table, "a", 1)
    with pytest.raises(FormatError, match="model: a: expected one tensor of that name, got two"):
        add_entry(HERE, table, "a", 2)
    monkeypatch.setattr(base, "MAX_TENSORS", 1)
    with pytest.raises(FormatError, match="expected at most 1 tensors, got more"):
        add_entry(HERE, table, "b", 2)
    assert table == {"a": 1}
