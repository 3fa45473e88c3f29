"""Writers that fail, die, are interrupted or run concurrently: the target is complete, unchanged or absent."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.files import replacement
from rwkv_cy.storage import open_model, skeleton, structure, write_model
from rwkv_cy.storage.layout import dataset_offset
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import HEADER, Array, few_tensors, infos, python, reader, tensors, write_small

#: Writes a model to sys.argv[1] and stops for ever, after saying so, at the moment sys.argv[2].
HANGING = """
import os, sys, time
from pathlib import Path
from rwkv_cy.storage import skeleton
from rwkv_cy.storage import write_model
from storage.small import HEADER, infos, reader, tensors

def hang(*arguments):
    print("here", flush=True)
    time.sleep(600)

target, moment = Path(sys.argv[1]), sys.argv[2]
contents = tensors()
read = reader(contents)
if moment == "structure":
    skeleton._set_complete = hang
elif moment == "data":
    read = lambda info, start, count: hang() if info.name == "head.weight" else reader(contents)(info, start, count)
elif moment == "finish":
    os.fsync = hang
elif moment == "replaced":
    replace = Path.replace
    Path.replace = lambda old, new: (replace(old, new), hang())
write_model(target, HEADER, infos(contents), read, overwrite=True)
"""

#: Writes a model under a limit on the size of a file, which stands for a disk that is really full.
LIMITED = """
import resource, sys
from pathlib import Path
from rwkv_cy.errors import StorageError
from storage.small import write_small
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_small(Path(sys.argv[1]), overwrite=True)
except StorageError as error:
    print(error)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


@pytest.fixture
def older(target: Path) -> bytes:
    """A model that is there already, and shall stay."""
    write_small(target, few_tensors())
    return target.read_bytes()


def unchanged(target: Path, older: bytes) -> bool:
    return target.read_bytes() == older and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("moment", ["structure", "data", "finish", "replaced"])
def test_killed(target: Path, older: bytes, moment: str) -> None:
    with subprocess.Popen(python(HANGING, target, moment), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    leftovers = [path for path in target.parent.iterdir() if path != target]
    if moment == "replaced":
        assert leftovers == []
        with open_model(target) as file:
            assert file.names() == tuple(tensors())
            assert file.verify().ok
        return
    assert target.read_bytes() == older
    (leftover,) = leftovers
    assert re.fullmatch(r"\.model\.h5\.[0-9a-f]{8}\.tmp", leftover.name)
    if moment != "finish":
        with pytest.raises(FormatError, match=r"whose writer died|of another kind"):
            open_model(leftover)
    strangers = [target.with_name(name) for name in (".other.h5.01234567.tmp", ".model.h5.0123456.tmp", "model.h5.tmp")]
    for stranger in strangers:
        stranger.touch()
        os.utime(stranger, (0, 0))
    # The next writer of the same target removes it.
    write_small(target, overwrite=True)
    assert sorted(target.parent.iterdir()) == sorted([target, *strangers])


def test_killed_before_anything_was_there(target: Path) -> None:
    with subprocess.Popen(python(HANGING, target, "data"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert not target.exists()


@pytest.mark.parametrize("limit", [100, 10_000, 100_000])
def test_too_little_disk_space(target: Path, older: bytes, limit: int) -> None:
    done = subprocess.run(python(LIMITED, target, str(limit)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = rf"{target}: a file of [0-9.]+ [kMGT]?B is larger than its file system .* allows \(File too lar"
    assert re.match(expected, done.stdout.decode())
    assert unchanged(target, older)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_when_space_is_reserved(
    target: Path, older: bytes, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(number))
    with pytest.raises(
        StorageError, match=r"model\.h5: not enough disk space: need [0-9.]+ [kMGT]?B, [0-9.]+ [kMGT]?B free .*free"
    ):
        write_small(target, overwrite=True)
    assert unchanged(target, older)


@pytest.mark.parametrize("good", range(14))
def test_disk_full_in_the_middle(target: Path, older: bytes, good: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that compress or copy on write can run full in space that was reserved."""
    pwrite, calls = os.pwrite, []

    def full(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) > good:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    if (
        good == 13
    ):  # the structure, the footer, six tensors, the vocabulary, the header, the index, the structure, the footer
        write_small(target, overwrite=True)
        assert len(calls) == good
        return
    with pytest.raises(StorageError, match=r"not enough disk space|cannot create the HDF5 structure"):
        write_small(target, overwrite=True)
    assert unchanged(target, older)


def failing(number: int) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_a_file_system_that_cannot_reserve(
    target: Path, older: bytes, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))
    monkeypatch.setattr(replacement.Replacement, "_free", lambda self: free)
    if free:
        write_small(target, overwrite=True)
        with open_model(target) as file:
            assert file.verify().ok
        return
    with pytest.raises(StorageError, match=r"not enough disk space: need [0-9.]+ [kM]?B, 0 B free \(No space left"):
        write_small(target, overwrite=True)
    assert unchanged(target, older)


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_failing_disk(target: Path, older: bytes, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, call, failing(errno.EIO))
    with pytest.raises(StorageError, match=r"model\.h5: cannot .* it: Input/output error; check the folder"):
        write_small(target, overwrite=True)
    assert unchanged(target, older)


def test_short_writes_are_continued(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, bytes(data)[:1000], offset))
    write_small(target)
    monkeypatch.undo()
    with open_model(target) as file:
        assert file.verify().ok


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_interrupted(target: Path, older: bytes, error: type[BaseException]) -> None:
    def read(info: TensorInfo, start: int, count: int) -> Array:
        if info.name == "head.weight":
            raise error
        return reader(tensors())(info, start, count)

    with pytest.raises(error):
        write_model(target, HEADER, infos(tensors()), read, overwrite=True)
    assert unchanged(target, older)


def test_the_error_that_matters_is_the_first(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    monkeypatch.setattr(Path, "unlink", failing(errno.EACCES))
    with pytest.raises(StorageError, match="Input/output error"):
        write_small(target)


def test_overwriting_is_refused_at_the_start(target: Path, older: bytes) -> None:
    with pytest.raises(StorageError, match=r"model\.h5 already exists; choose another name"):
        write_model(target, HEADER, infos(tensors()), lambda *arguments: pytest.fail("read too early"))
    assert unchanged(target, older)


@pytest.mark.parametrize("hard_links", [True, False])
def test_overwriting_is_refused_at_the_end(target: Path, hard_links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))

    def read(info: TensorInfo, start: int, count: int) -> Array:
        target.write_bytes(b"somebody else's")
        return reader(tensors())(info, start, count)

    with pytest.raises(StorageError, match=r"model\.h5 already exists; choose another name"):
        write_model(target, HEADER, infos(tensors()), read)
    assert unchanged(target, b"somebody else's")


def test_a_file_system_without_hard_links(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    write_small(target)
    assert list(target.parent.iterdir()) == [target]
    with open_model(target) as file:
        assert file.names() == tuple(tensors())


def test_linking_fails(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EIO))
    with pytest.raises(StorageError, match="cannot finish writing it: Input/output error"):
        write_small(target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_two_writers_of_one_target(target: Path, overwrite: bool) -> None:
    barrier = threading.Barrier(2)
    errors: list[StorageError] = []

    def write(contents: dict[str, tuple[str, Array]]) -> None:
        def read(info: TensorInfo, start: int, count: int) -> Array:
            if info.name == "emb.weight":
                barrier.wait(300)
            return reader(contents)(info, start, count)

        try:
            write_model(target, HEADER, infos(contents), read, overwrite=overwrite)
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(contents,)) for contents in (tensors(), few_tensors())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == (0 if overwrite else 1)
    assert all("already exists" in str(error) for error in errors)
    assert list(target.parent.iterdir()) == [target]
    with open_model(target) as file:
        assert file.names() in (tuple(tensors()), tuple(few_tensors()))
        assert file.verify().ok


def test_read_only_folder(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = os.open

    def refuse(path: Any, flags: int, *arguments: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opening(path, flags, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        StorageError, match=f"cannot create it: Read-only file system; check the folder {target.parent}"
    ):
        write_small(target)


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot create it: No such file or directory; check the folder"):
        write_small(tmp_path / "missing" / "model.h5")
    with pytest.raises(StorageError, match="is a directory, not a regular file; choose another name"):
        write_small(tmp_path, overwrite=True)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(StorageError, match="is a special file, not a regular file; choose another"):
        write_small(fifo, overwrite=True)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(StorageError, match="cannot create it: Too many levels of symbolic links"):
        write_small(loop, overwrite=True)
    with pytest.raises(StorageError, match="cannot create it: File name too long"):
        write_small(tmp_path / ("x" * 300))
    with pytest.raises(StorageError, match="expected a path, got an invalid file name"):
        write_small(tmp_path / "a\0b")
    assert sorted(tmp_path.iterdir()) == [fifo, loop]


def test_long_names(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 120 + ".h5")
    write_small(target)
    assert list(tmp_path.iterdir()) == [target]


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "folder" / "real.h5", tmp_path / "link.h5"
    real.parent.mkdir()
    link.symlink_to(real)
    with pytest.raises(StorageError, match="already exists"):
        write_small(link)
    write_small(link, overwrite=True)
    write_small(link, few_tensors(), overwrite=True)
    assert link.is_symlink()
    assert list(real.parent.iterdir()) == [real]
    with open_model(real) as file:
        assert file.names() == tuple(few_tensors())


@pytest.mark.parametrize(("number", "fine"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced(target: Path, number: int, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def folders_fail(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):  # noqa: PTH112
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", folders_fail)
    if fine:
        write_small(target)
    else:
        with pytest.raises(StorageError, match="complete, but its folder .* Input/output error; the file may be"):
            write_small(target)
    assert list(target.parent.iterdir()) == [target]


def test_permissions_follow_the_umask(target: Path) -> None:
    old = os.umask(0o027)
    try:
        write_small(target)
    finally:
        os.umask(old)
    assert target.stat().st_mode & 0o777 == 0o640


def test_hdf5_fails(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("Unable to do it")

    monkeypatch.setattr(skeleton.h5d, "create", fail)
    with pytest.raises(StorageError, match=r"cannot create the HDF5 structure \(Unable to do it\); check the disk"):
        write_small(target)
    assert list(target.parent.iterdir()) == []


def test_hdf5_meets_a_full_disk(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is several lines long, and holds the number of the error."""

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("Can't write (time = Sun\n, errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr(skeleton.h5d, "create", fail)
    with pytest.raises(
        StorageError, match=r"not enough disk space: need [0-9.]+ kB, .* free \(No space left on device"
    ):
        write_small(target)
    assert list(target.parent.iterdir()) == []


def test_hdf5_lays_the_file_out_otherwise(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "dataset_offset", lambda dataset, spec: None)
    with pytest.raises(StorageError, match="expected HDF5 to lay its metadata out in front of the data, got another"):
        write_small(target)
    assert list(target.parent.iterdir()) == []


def test_hdf5_that_cannot_iterate_over_chunks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An h5py that somebody built with HDF5 1.10."""

    class Old:
        def __init__(self, dataset: Any) -> None:
            self._dataset = dataset

        def __getattr__(self, name: str) -> Any:
            if name == "chunk_iter":
                raise AttributeError(name)
            used.add(name)
            return getattr(self._dataset, name)

    used: set[str] = set()
    contents = {"head.weight": ("f32", np.arange(1200 * 512, dtype="<f4").reshape(1200, 512))}  # of two chunks
    write_small(target, contents)
    expected = target.read_bytes()
    for module in (skeleton, structure):
        monkeypatch.setattr(module, "dataset_offset", lambda dataset, spec: dataset_offset(Old(dataset), spec))
    write_small(target, contents, overwrite=True)
    assert "get_chunk_info" in used
    assert target.read_bytes() == expected
    with open_model(target) as file:
        assert file.verify().ok


def test_metadata_larger_than_estimated(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "metadata_bytes", lambda specs: 4096)
    contents = {f"blocks.{i}.ln1.weight": ("f32", np.full(200, i, "<f4")) for i in range(30)}
    write_small(target, contents)
    with open_model(target) as file:
        assert file.verify().ok
