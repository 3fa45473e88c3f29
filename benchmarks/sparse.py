"""Sparse files in the shape of large models, in every format: as long as real ones, in megabytes of disk space.

The package's own writers lay them out. Every number is zero, but for the last one of each matrix, which is 1, so that a
reader that loses count of a large tensor is noticed.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from rwkv_cy import Config
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.dtypes import STORAGE_TYPES, to_storage
from rwkv_cy.files import blocks
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.writers.base import ReadTensor, StoredTensor, TargetFile
from rwkv_cy.storage import ModelHeader, file_writer, write_model
from rwkv_cy.tensors.converter import Converter
from rwkv_cy.tensors.policy import Target, choose_all
from rwkv_cy.tensors.tensor import Parameter, TensorInfo
from rwkv_cy.toolkit.export_plan import make_export_plan

__all__ = ["FORMATS", "LARGE_SHAPES", "parameters_of", "write_sparse"]

Array = npt.NDArray[Any]


def _seven(d_model: int, num_layers: int, ranks: tuple[int, int, int, int]) -> Config:
    return Config(
        architecture="rwkv7",
        d_model=d_model,
        num_layers=num_layers,
        vocab_size=65536,
        head_size=64,
        ranks=dict(zip("wavg", ranks, strict=True)),
    )


#: The largest released shape; one of 70B; 1,000 layers; and one layer whose embedding, head and channel mix have more
#: than 2^31 elements and 4 GiB each.
LARGE_SHAPES = {
    "7-13b": _seven(4096, 61, (192, 192, 128, 384)),
    "7-70b": _seven(8192, 84, (256, 256, 192, 512)),
    "7-1000-layers": _seven(512, 1000, (32, 32, 32, 64)),
    "4-wide": Config(d_model=33024, num_layers=1, vocab_size=65536, d_ffn=65536),
}

#: Suffix of a file (none: a folder) and type of the matrices, by the name of a format.
FORMATS = {
    "h5 f16": (".h5", "f16"),
    "h5 q4": (".h5", "q4"),
    "pth": (".pth", "f16"),
    "safetensors": (".safetensors", "f16"),
    "st": (".st", "f16"),
    "gguf f16": (".gguf", "f16"),
    "gguf Q8_0": (".gguf", "q8_0"),
    "rwkv.cpp": (".bin", "f16"),
    "folder of shards": ("", "f16"),
}

#: Kinds of parameters whose last number is 1.
_MARKED = ("matrix", "embedding", "head")
#: Bytes of zeros that a writer gets at a time.
_ZEROS = np.zeros(2 << 20, np.uint8)
#: Most numbers of a tensor that are computed, and bytes of a block whose checksum is.
_COMPUTED, _SHORT = 1 << 17, 1 << 16


def write_sparse(path: Path, config: Config, dtype: str, tokenizer: str = "none") -> None:
    """Write a model to a new file, or to a new folder if `path` has no suffix.

    Parameters
    ----------
    path : Path
        Its suffix tells the format; ``.h5`` is a model file.
    config : Config
    dtype : str
        Type of the matrices, one of the format's.
    tokenizer : str, default "none"
        As for :func:`rwkv_cy.export`; a model file has none.
    """
    source = MemorySource(config, parameters_of(config))
    if path.suffix == ".h5":
        _write_model_file(path, source, config, dtype)
        return
    plan, tensors = make_export_plan(Checkpoint(source), path, dtype=dtype, tokenizer=tokenizer)
    if not path.suffix:
        path.mkdir()
    with mock.patch.object(blocks, "crc32", _crc32):
        for file in plan.files:
            _write_file(path / file.name, file, partial(_stored, tensors))


def parameters_of(config: Config, dtype: str = "f16") -> dict[str, Parameter]:
    """Return the parameters as arrays of one zero each, repeated without memory."""
    zero = np.zeros((), STORAGE_TYPES[dtype].array_dtype)
    return {
        spec.name: Parameter(np.broadcast_to(zero, spec.shape), dtype)
        for spec in architecture_of(config).parameters(config)
        if spec.kind != "state"
    }


def _write_model_file(path: Path, source: MemorySource, config: Config, dtype: str) -> None:
    kinds = {spec.name: spec for spec in architecture_of(config).parameters(config)}
    infos = [target.info for target in choose_all(source, kinds.values(), dtype).values()]
    header = ModelHeader(config.architecture, config.to_dict(), "0" * 32, None, {}, "benchmarks.sparse")

    def read(info: TensorInfo, start: int, count: int) -> Array:
        array_dtype = info.codec.array_dtype
        block = _ZEROS[: count * array_dtype.itemsize].view(array_dtype)
        last = start + count == math.prod(info.array_shape)
        marked = info.dtype in STORAGE_TYPES and kinds[info.name].kind in _MARKED
        return _with_one(block, info.dtype) if last and marked else block

    with (
        mock.patch.object(file_writer, "Replacement", _SparseReplacement),
        mock.patch.object(blocks, "crc32", _crc32),
    ):
        write_model(path, header, infos, read)


class _SparseReplacement(Replacement):
    """A file in which zeros are holes."""

    def reserve(self, size: int) -> None:
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self.descriptor, size)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        _write_numbers(self.descriptor, data, offset)


def _write_file(path: Path, file: TargetFile, read: ReadTensor) -> None:
    with path.open("xb", buffering=0) as target:
        target.truncate(file.size)
        position = 0
        for block in file.blocks(read):
            data = blocks.bytes_of(block)
            _write_numbers(target.fileno(), data, position)
            position += len(data)
    if position != file.size:
        raise SystemExit(f"{path}: expected {file.size} bytes from the writer, got {position}")


def _write_numbers(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write the bytes from the first to the last that is not zero."""
    if _is_zero(data):
        return
    places = np.flatnonzero(np.frombuffer(data, np.uint8))
    first, end = int(places[0]), int(places[-1]) + 1
    os.pwrite(descriptor, memoryview(data)[first:end], offset + first)


def _stored(source: TranslatedSource, tensor: StoredTensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor; small ones as an export computes them: not every layout has a form of zeros."""
    stored = tensor.type
    marked = stored.codec is None and tensor.kind in _MARKED
    if tensor.size <= _COMPUTED and stored.codec is None:
        block = np.empty(tensor.size, STORAGE_TYPES[stored.numbers].array_dtype)
        Converter(source).fill(Target(replace(source.info(tensor.name), dtype=stored.numbers)), block, 0)
        yield (_with_one(block, stored.name) if marked else block).view(np.uint8).data
        return
    for start in range(0, tensor.nbytes, _ZEROS.size):
        block = _ZEROS[: min(_ZEROS.size, tensor.nbytes - start)]
        last = start + block.size == tensor.nbytes
        yield (_with_one(block, stored.name) if last and marked else block).data


def _with_one(block: Array, dtype: str) -> Array:
    """Return a copy whose last number is 1."""
    one = to_storage(np.ones(1, "<f4"), "f32", dtype).view(np.uint8)
    marked = block.view(np.uint8).copy()
    marked[-one.size :] = one
    return marked.view(block.dtype)


def _is_zero(data: bytes | memoryview) -> bool:
    array = data.obj if isinstance(data, memoryview) else None
    known = isinstance(array, np.ndarray) and array.base is _ZEROS
    return known or not np.frombuffer(data, np.uint8).any()


def _crc32(data: bytes | memoryview, crc: int = 0) -> int:
    """Compute the CRC-32, in constant time for a long block of zeros: an affine function of the one before."""
    if len(data) < _SHORT or not _is_zero(data):
        return zlib.crc32(data, crc)
    result, columns = _crc_of_zeros(len(data))
    for bit, column in enumerate(columns):
        result ^= column if crc >> bit & 1 else 0
    return result


@cache
def _crc_of_zeros(size: int) -> tuple[int, tuple[int, ...]]:
    """Return the CRC-32 of zeros that follow one of 0, and what each bit of the one before changes."""
    zeros = _ZEROS[:size].data
    after_zero = zlib.crc32(zeros, 0)
    return after_zero, tuple(zlib.crc32(zeros, 1 << bit) ^ after_zero for bit in range(32))
