"""Safetensors files: a length, a JSON header, and the bytes of the tensors.

Source: github.com/huggingface/safetensors, README.md, "Format". Every rule of that page is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.formats.base import MAX_HEADER_BYTES, FileBytes, add_entry, check_name, check_shape
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.tensors.tensor import TensorInfo

__all__ = ["open_safetensors"]

_LENGTH_BYTES = 8
#: An object of tensors, each an object with an array in it.
_HEADER_DEPTH = 3
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_TAKEN = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}


def open_safetensors(path: Path) -> RawSource:
    """Open a safetensors file, with its own names and shapes.

    The source's metadata is the header's ``__metadata__``.

    Raises
    ------
    FormatError
        If the file violates the format.
    UnsupportedError
        If a tensor has a type that is not supported.
    StorageError
        If the operating system reports an error.
    """
    file = FileBytes(path)
    try:
        header, data_start = _read_header(file)
        metadata = _check_metadata(path, header.pop(_METADATA, {}))
        tensors: dict[str, RawTensor] = {}
        for name, entry in header.items():
            add_entry(path, tensors, name, _tensor(path, name, entry, data_start))
        _check_spans(file, tensors, data_start)
        return RawSource(file, "safetensors", tensors, metadata)
    except BaseException:
        file.close()
        raise


def _read_header(file: FileBytes) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the offset of the data."""
    if file.size < _LENGTH_BYTES:
        raise FormatError(
            f"{file.path}: expected the {_LENGTH_BYTES} bytes of a header's length, got {file.size}; "
            "the file is cut short: download or copy it again"
        )
    length = int.from_bytes(file.read_at(0, _LENGTH_BYTES), "little")
    if length > min(MAX_HEADER_BYTES, file.size - _LENGTH_BYTES):
        raise FormatError(
            f"{file.path}: expected a header of at most {MAX_HEADER_BYTES} bytes within the {file.size} of the file, "
            f"got one of {length}; the file is cut short or damaged: download or copy it again"
        )
    raw = file.read_at(_LENGTH_BYTES, length)
    if not raw.startswith(b"{"):
        raise FormatError(f"{file.path}: expected a header that begins with '{{', got {raw[:8]!r}; the file is damaged")
    return parse_object(file.path, "header", raw, _HEADER_DEPTH), _LENGTH_BYTES + length


def _check_metadata(path: Path, metadata: object) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: {_METADATA}: expected texts by name, got something else; the file is damaged")
    return metadata


def _tensor(path: Path, name: str, entry: object, data_start: int) -> RawTensor:
    """Check one entry of the header on its own."""
    where = f"{path}: {check_name(path, name)}"
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise FormatError(f"{where}: expected dtype, shape and data_offsets, got something else; the file is damaged")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _TAKEN:
        shown = repr(dtype[:20]) if isinstance(dtype, str) else type(dtype).__name__
        raise UnsupportedError(
            f"{where}: expected one of the types {', '.join(_TAKEN)}, got {shown}; "
            "convert the checkpoint to one of them first"
        )
    storage = _TAKEN[dtype]
    if not isinstance(entry["shape"], list):
        raise FormatError(f"{where}: expected a list of dimensions, got something else; the file is damaged")
    shape = check_shape(path, name, entry["shape"])
    begin, end = _offsets(where, entry["data_offsets"])
    size = math.prod(shape) * STORAGE_TYPES[storage].itemsize
    if end - begin != size:
        raise FormatError(
            f"{where}: expected {size} bytes for {dtype} of shape {shape}, got {end - begin}; the file is damaged"
        )
    return RawTensor(TensorInfo(name, shape, storage, name, storage, size), data_start + begin)


def _offsets(where: str, offsets: object) -> tuple[int, int]:
    # type() and not isinstance(): true and false are integers to the latter.
    if isinstance(offsets, list) and [type(offset) for offset in offsets] == [int, int]:
        begin, end = offsets
        if 0 <= begin <= end:
            return begin, end
    raise FormatError(f"{where}: expected data_offsets [begin, end], got {str(offsets)[:60]}; the file is damaged")


def _check_spans(file: FileBytes, tensors: Mapping[str, RawTensor], data_start: int) -> None:
    """Check that the tensors cover the data exactly: no overlap, no gap, nothing after the last."""
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset != position:
            fault = "an overlap" if tensor.offset < position else "a hole"
            raise FormatError(
                f"{file.path}: {name}: expected its data at byte {position - data_start}, got "
                f"{tensor.offset - data_start}: {fault}; the file is damaged"
            )
        position += tensor.info.source_nbytes
    if position < file.size:
        raise FormatError(
            f"{file.path}: expected {position} bytes as its header says, got {file.size}: {file.size - position} bytes "
            f"follow the last tensor, which the format does not allow; cut them off (truncate -s {position}), or "
            "download it again"
        )
    if position > file.size:
        raise FormatError(
            f"{file.path}: expected {position} bytes as its header says, got {file.size}; "
            "the file is cut short: download or copy it again"
        )
