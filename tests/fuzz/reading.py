"""What every fuzz target does with a file that a reader accepts: read all of it, in every way."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from fuzz.scratch import scratch_parent
from rwkv_cy.tensors.codecs import GroupedCodec
from rwkv_cy.tensors.reading import check_stored, read_rows
from rwkv_cy.tensors.tensor import ParameterSource


@cache
def _folder(process: int) -> Path:
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=scratch_parent())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def scratch_folder() -> Path:
    """Return a folder of this process, in memory if possible; it is removed as the process ends."""
    return _folder(os.getpid())


@cache
def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


@contextmanager
def written(data: bytes, name: str = "model") -> Iterator[Path]:
    """Put `data` into a file. It is one file all the time: to create and remove one takes longer than to read it."""
    path = scratch_folder() / name
    descriptor = _open(path)
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))
    yield path


def read_file(data: bytes, opener: Callable[[Path], ParameterSource]) -> None:
    """Open a file of these bytes and read everything in it."""
    with written(data) as path, opener(path) as source:
        read_everything(source, len(data))


def read_everything(source: ParameterSource, file_bytes: int) -> None:
    """Read all tensors whole, in two parts and as views, which must agree, and hold sizes against the file's.

    Matrices that are encoded are decoded as well.
    """
    source.check()
    for name in source.names():
        info = source.info(name)
        if not (info.name == name and 0 < info.source_nbytes <= file_bytes):
            raise AssertionError(f"{name}: described as {info} in a file of {file_bytes} bytes")
        size = math.prod(info.array_shape)
        whole = np.empty(size, info.codec.array_dtype)
        source.read_into(name, whole)
        half = np.empty(size - size // 2, whole.dtype)
        source.read_into(name, half, size // 2)
        view = source.view(name)
        if half.tobytes() != whole[size // 2 :].tobytes():
            raise AssertionError(f"{name}: a part differs from the whole")
        if view is not None and (view.shape != info.array_shape or view.tobytes() != whole.tobytes()):
            raise AssertionError(f"{name}: the view differs from what was read")
        if info.codec.matrices_only:
            check_stored(source, info)
            rows = read_rows(source, info, 0, info.shape[0])
            if rows.shape != info.shape:
                raise AssertionError(f"{name}: {rows.shape} was decoded for {info.shape}")
            if isinstance(info.codec, GroupedCodec):
                columns = read_rows(source, info, 0, info.shape[1], transposed=True)
                if columns.tobytes() != np.ascontiguousarray(rows.T).tobytes():
                    raise AssertionError(f"{name}: its rows differ from those of its transpose")


def read_once(source: ParameterSource) -> None:
    """Read all tensors whole."""
    source.check()
    for name in source.names():
        info = source.info(name)
        source.read_into(name, np.empty(math.prod(info.array_shape), info.codec.array_dtype))
