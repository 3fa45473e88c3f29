"""Writing model files: parameters by name, and the header."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.files.reading import new_file_path
from rwkv_cy.storage.file_writer import Content, all_datasets, array_blocks, bytes_content, write_file
from rwkv_cy.storage.jsontext import pack_json
from rwkv_cy.storage.schema import (
    BLOCK_BYTES,
    HEADER_PATH,
    MAX_HEADER_BYTES,
    MAX_TOKENIZER_BYTES,
    MODEL_KIND,
    TOKENIZER_PATH,
    DatasetSpec,
    ModelHeader,
    Progress,
)
from rwkv_cy.storage.space import reserved_bytes
from rwkv_cy.tensors.tensor import TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ReadBlock", "needed_bytes", "write_model"]

#: ``read(info, start, count)`` returns elements ``start .. start + count`` of a tensor, in C order, 1-D.
ReadBlock: TypeAlias = "Callable[[TensorInfo, int, int], npt.NDArray[Any]]"

#: Capacity reserved in the header for values that are known at the end only.
_FINISH_CAPACITY = 16 << 10


def write_model(
    path: str | os.PathLike[str],
    header: ModelHeader,
    tensors: Sequence[TensorInfo],
    read: ReadBlock,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    finish: Callable[[], Mapping[str, str]] | None = None,
    written: Callable[[str, int], None] | None = None,
) -> None:
    """Write a model file. Afterwards `path` is complete, or unchanged after an error.

    Memory is bounded by a block of 1 MiB, or by 16 rows of a quantized matrix that take more, whatever the size of a
    tensor, beside what `read` needs.

    Parameters
    ----------
    path : path-like
        Where the file shall be. It appears there when it is finished.
    header : ModelHeader
        What to say of the model.
    tensors : sequence of TensorInfo
        What to store, in this order: name, shape and dtype are used.
    read : callable
        ``read(info, start, count)`` returns `count` elements of a tensor from element `start` on, as a 1-D array of
        the array dtype of its codec (uint16 for bf16). Called in file order. The elements of a quantized matrix are the
        bytes of its blocks, and are requested in whole groups of rows.
    overwrite : bool
        Whether an older file may be replaced. Without it, a file that appears while this one is being written is
        kept as well.
    progress : callable, optional
        Called with the number of bytes that have just been written.
    finish : callable, optional
        Called when every tensor has been read; what it returns is added to ``header.source``.
    written : callable, optional
        Called with the name of each tensor and the CRC-32 of its bytes, by the thread that wrote them.

    Raises
    ------
    StorageError
        If the target exists, or the operating system refuses something. A full disk is noticed before the first
        tensor is read, where the file system can reserve space.
    ConfigError
        If the dtype of a tensor is not a storage type.
    SpecError
        If a tensor or the header cannot be stored, or `read` does not return what was requested.
    """
    contents = _contents(header, tensors, read, finish, written)
    write_file(new_file_path(path), MODEL_KIND, contents, overwrite=overwrite, progress=progress)


def needed_bytes(header: ModelHeader, tensors: Sequence[TensorInfo]) -> int:
    """Return the disk space that :func:`write_model` reserves for a file, with a `finish`; it may become smaller."""

    def nothing(info: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
        raise AssertionError("nothing is written")

    contents = _contents(header, tensors, nothing, dict)
    return reserved_bytes(all_datasets(MODEL_KIND, [content.spec for content in contents]))


def _contents(
    header: ModelHeader,
    tensors: Sequence[TensorInfo],
    read: ReadBlock,
    finish: Callable[[], Mapping[str, str]] | None,
    written: Callable[[str, int], None] | None = None,
) -> list[Content]:
    """Return the parameters, the tokenizer and the header, in the order in which they are stored."""
    contents = [
        Content(DatasetSpec.of_parameter(info), _reader(info, read), written and partial(written, info.name))
        for info in tensors
    ]
    data = b"" if header.tokenizer is None else header.tokenizer.data
    if len(data) > MAX_TOKENIZER_BYTES:
        raise SpecError(f"tokenizer: expected at most {MAX_TOKENIZER_BYTES} bytes, got {len(data)}; choose another one")
    if data:
        contents.append(bytes_content(TOKENIZER_PATH, data))
    capacity = len(_pack_header(header)) + (_FINISH_CAPACITY if finish else 0)

    def last() -> Iterator[memoryview]:
        yield memoryview(_pack_header(header if finish is None else header.with_source(finish()), capacity))

    return [*contents, Content(DatasetSpec(HEADER_PATH, "u8", (capacity,)), last, waits=finish is not None)]


def _pack_header(header: ModelHeader, capacity: int | None = None) -> bytes:
    """Return the header as it is stored, after checking that a reader will take it."""
    try:
        ModelHeader.from_json(header.to_json(), b"", Path("header"))
    except FormatError as error:
        raise SpecError(str(error)) from error
    return pack_json(header.to_json(), "header", capacity, limit=MAX_HEADER_BYTES)


def _reader(info: TensorInfo, read: ReadBlock) -> Callable[[], Iterator[memoryview]]:
    codec = info.codec
    dtype = codec.array_dtype

    def blocks() -> Iterator[memoryview]:
        size = math.prod(info.array_shape)
        unit = codec.group_size(info.shape)
        step = max(BLOCK_BYTES // (unit * dtype.itemsize), 1) * unit
        for start in range(0, size, step):
            count = min(step, size - start)
            block = read(info, start, count)
            if block.shape != (count,) or block.dtype != dtype:
                raise SpecError(
                    f"{info.name}: expected {count} elements of {dtype} to write, "
                    f"got {block.dtype} of shape {block.shape}; return what was requested"
                )
            yield from array_blocks(block)

    return blocks
