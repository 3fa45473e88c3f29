"""One file from the hub: resumed where an earlier attempt ended, and compared with its hash before it is used."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rwkv_cy.errors import HubError, StorageError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.hub.library import open_stream
from rwkv_cy.hub.listing import RemoteFile
from rwkv_cy.hub_names import HubName
from rwkv_cy.units import byte_size

__all__ = ["copy_file", "download", "free_space", "matches", "partial_size"]

Advance = Callable[[int], None]

#: Attempts in a row without a new byte, and the pause before each.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_BLOCK = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def partial_size(partial: Path, file: RemoteFile) -> int:
    """Return how many bytes of a file an earlier attempt has left."""
    try:
        size = partial.stat().st_size
    except OSError:
        return 0
    return size if size <= file.size else 0


def download(name: HubName, file: RemoteFile, partial: Path, target: Path, advance: Advance) -> None:
    """Download a file to `partial`, check it, and rename it to `target`.

    What has arrived stays in `partial` when the download ends early, and the next one continues there. Another process
    that downloads the same file is waited for.

    Parameters
    ----------
    name : HubName
        The repository, with a commit as revision.
    file : RemoteFile
    partial, target : Path
        In one existing folder.
    advance : callable
        Called with the number of bytes that were added; negative if they have to be sent again.

    Raises
    ------
    HubError
        If the hub cannot be reached, refuses, or sends another file.
    StorageError
        If the disk is full, or the file cannot be written.
    """
    with _locked(partial) as stream:
        if matches(target, file):  # another process has finished it
            advance(file.size - partial_size(partial, file))
            partial.unlink(missing_ok=True)
            return
        digest = _fill(HubName(name.repository, file.name, name.revision), file, stream, advance)
        if digest != file.digest:
            partial.unlink(missing_ok=True)
            raise HubError(
                f"{name}: {file.name}: expected a file with the hash {file.digest}, got {digest}; it was damaged on "
                "its way and has been removed: download it again"
            )
        with os_errors(partial, "finish writing"):
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(target)


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open the partial file for reading and writing, locked against other processes."""
    while True:
        with os_errors(partial, "write"):
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            with suppress(OSError):  # file systems without locks
                fcntl.flock(stream, fcntl.LOCK_EX)
            if _is_at(stream, partial):
                yield stream
                return


def _is_at(stream: Any, path: Path) -> bool:
    """Tell whether an open file still has its name: the process that held the lock may have renamed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fill(name: HubName, file: RemoteFile, stream: BinaryIO, advance: Advance) -> str:
    """Append what is missing to the stream, and return the hash of the whole."""
    digest = _hash_of(file)
    done = _read_back(file, stream, digest)
    # A server that always begins anew makes progress only beyond what was there once.
    farthest, failures = done, 0
    while done < file.size:
        try:
            with open_stream(name, done) as response:
                if response.start < done:
                    advance(-done)
                    digest, done = _hash_of(file), 0
                    stream.seek(0)
                    stream.truncate()
                for chunk in response.chunks:
                    if done + len(chunk) > file.size:
                        raise HubError(
                            f"{name}: expected {file.size} bytes, got more; the server sends another file: "
                            "try again, or check HF_ENDPOINT"
                        )
                    _write(name, stream, chunk, file.size - done)
                    digest.update(chunk)
                    done += len(chunk)
                    advance(len(chunk))
            if done <= farthest:
                raise HubError(f"{name}: expected {file.size} bytes, got {done}; try again later", transient=True)
        except HubError as error:
            failures = failures + 1 if done <= farthest else 1
            if not error.transient or failures > len(_PAUSES):
                raise
            time.sleep(_PAUSES[failures - 1])
        farthest = max(farthest, done)
    return str(digest.hexdigest())


def _hash_of(file: RemoteFile) -> Any:
    """Return the beginning of the hash that the hub has of a file: SHA-256, or git's SHA-1 of an object."""
    if len(file.digest) == hashlib.sha256().digest_size * 2:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _read_back(file: RemoteFile, stream: BinaryIO, digest: Any) -> int:
    """Hash what an earlier attempt left, and return how much that is."""
    size = os.fstat(stream.fileno()).st_size
    if size > file.size:
        stream.truncate(0)
        return 0
    while block := stream.read(_BLOCK):
        digest.update(block)
    return size


def _write(name: HubName, stream: BinaryIO, chunk: bytes, needed: int) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                f"{name}: not enough disk space: {byte_size(needed)} more needed ({error.strerror}); free some space "
                "and repeat the command: it continues where it ended"
            ) from error
        raise StorageError(f"{name}: cannot write it: {error.strerror or error}; check the disk") from error


def matches(path: Path, file: RemoteFile) -> bool:
    """Tell whether a local file has the size and hash of one on the hub."""
    with os_errors(path, "read"):
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        digest = _hash_of(file)
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return bool(digest.hexdigest() == file.digest)


def copy_file(source: Path, file: RemoteFile, partial: Path, target: Path, advance: Advance) -> None:
    """Copy a file that the cache has, under the name `partial` until it is complete and compared with its hash.

    Raises
    ------
    HubError
        If the cache has other bytes.
    StorageError
        If it cannot be read or written.
    """
    digest = _hash_of(file)
    with _locked(partial) as copy:
        try:
            with os_errors(source, "copy"), source.open("rb", buffering=0) as stream:
                copy.truncate(0)
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    view = memoryview(block)
                    while view:
                        view = view[copy.write(view) :]
                    advance(len(block))
                os.fsync(copy.fileno())
            if digest.hexdigest() != file.digest:
                raise HubError(
                    f"{source}: expected a file with the hash {file.digest}, as {file.name} has, got "
                    f"{digest.hexdigest()}; the cache is damaged: remove this file, and download it again"
                )
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        with os_errors(target, "write"):
            partial.replace(target)


def free_space(folder: Path) -> int:
    """Return the bytes that this user may write where `folder` is, or will be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with os_errors(folder, "determine the free space of"):
        status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
