"""Checkpoints in the format of torch.save, streamed to disk: a zip archive of a pickle and one entry per storage."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rwkv_cy.dtypes import storage_type

__all__ = ["ArchiveTensor", "write_archive"]

_STORAGES = {"f64": "DoubleStorage", "f32": "FloatStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage"}
#: torch pads the local header of each entry, so that its data can be mapped.
_ALIGNMENT = 64


@dataclass(frozen=True)
class ArchiveTensor:
    """A tensor to be written.

    Attributes
    ----------
    name : str
    dtype : str
        Storage type.
    shape : tuple of int
    blocks : iterable of ndarray
        Its numbers in C order, of the array dtype of `dtype`; read once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[npt.NDArray[Any]]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def write_archive(path: Path, tensors: Sequence[ArchiveTensor]) -> None:
    """Write a state dict; memory is bounded by a block of a tensor, and the same tensors give the same bytes."""
    folder = path.stem
    pickled = _state_dict(tensors)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, f"{folder}/data.pkl", len(pickled), (pickled,))
        _add(archive, f"{folder}/byteorder", 6, (b"little",))
        for key, tensor in enumerate(tensors):
            nbytes = tensor.size * storage_type(tensor.dtype).itemsize
            _add(archive, f"{folder}/data/{key}", nbytes, (block.data.cast("B") for block in tensor.blocks))
        _add(archive, f"{folder}/version", 2, (b"3\n",))


def _add(archive: zipfile.ZipFile, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.file_size = size
    end_of_header = archive.start_dir + 30 + len(name.encode()) + 4
    padding = -end_of_header % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(entry, "w") as stream:
        for piece in pieces:
            stream.write(piece)


# The pickle, protocol 2. Each function returns the opcodes that push one object.


def _state_dict(tensors: Sequence[ArchiveTensor]) -> bytes:
    items = b"".join(_text(tensor.name) + _tensor(str(key), tensor) for key, tensor in enumerate(tensors))
    return b"\x80\x02" + b"}(" + items + b"u."


def _tensor(key: str, tensor: ArchiveTensor) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)."""
    strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    kind = _global("torch", _STORAGES[tensor.dtype])
    storage = _tuple(_text("storage"), kind, _text(key), _text("cpu"), _integer(tensor.size)) + b"Q"
    hooks = _global("collections", "OrderedDict") + b")R"
    sizes = _tuple(*map(_integer, tensor.shape))
    steps = _tuple(*map(_integer, strides))
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(storage, b"K\0", sizes, steps, b"\x89", hooks) + b"R"


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
